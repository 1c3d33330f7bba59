//! KSM: folios that were merged because their contents are equal, and who maps them.
//!
//! A KSM folio may be mapped at many addresses of many processes, so its `anon_vma` and index say nothing. Instead its
//! stable node lists the addresses at which it was merged; each keeps the `anon_vma` of its VMA, which leads to those
//! that fork copied from there.

use super::ids::AnonVmaId;
use crate::phys::Pfn;

/// Candidates of the unstable tree at once; the oldest leaves.
const MAX_UNSTABLE: usize = 8;

/// `struct ksm_rmap_item`, once it is in the stable tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RmapItem {
    /// Address space.
    pub mm: u8,
    /// Virtual page number.
    pub vpn: u32,
    /// `anon_vma` of the VMA at the time of the merge; it holds a reference.
    pub av: AnonVmaId,
}

/// `struct ksm_stable_node`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StableNode {
    /// Frame of the folio, if it is still the one that names this node ([`crate::phys::Folio::stable`]).
    pub kpfn: Pfn,
    /// Where it was merged.
    pub items: Vec<RmapItem>,
    /// In the tree.
    pub live: bool,
}

/// Everything that `ksmd` knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ksm {
    /// The stable tree; places of nodes that are gone are used again.
    pub nodes: Vec<StableNode>,
    /// The unstable tree: addresses whose contents nothing equalled when they were scanned.
    pub unstable: Vec<(u8, u32)>,
    /// `ksm_thread_mutex`: the CPU that holds it, plus one.
    pub mutex: u8,
}

impl Ksm {
    /// Forgets everything, keeping allocations.
    pub fn reset(&mut self) {
        for node in &mut self.nodes {
            node.live = false;
            node.items.clear();
        }
        self.unstable.clear();
        self.mutex = 0;
    }

    /// A node for a folio.
    pub fn insert(&mut self, kpfn: Pfn) -> usize {
        let at = self.nodes.iter().position(|n| !n.live).unwrap_or(self.nodes.len());
        if at == self.nodes.len() {
            self.nodes.push(StableNode { kpfn, items: Vec::with_capacity(8), live: false });
        }
        let node = &mut self.nodes[at];
        node.items.clear();
        (node.kpfn, node.live) = (kpfn, true);
        at
    }

    /// The node that an address was merged into.
    pub fn node_of(&self, mm: u8, vpn: u32) -> Option<usize> {
        self.nodes.iter().position(|n| n.live && n.items.iter().any(|i| (i.mm, i.vpn) == (mm, vpn)))
    }

    /// Adds a candidate to the unstable tree.
    pub fn wait_for_equal(&mut self, mm: u8, vpn: u32) {
        if !self.unstable.contains(&(mm, vpn)) {
            if self.unstable.len() == MAX_UNSTABLE {
                self.unstable.remove(0);
            }
            self.unstable.push((mm, vpn));
        }
    }
}
