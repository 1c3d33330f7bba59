//! Cached translations against the entries they were made of.

use super::Finding;
use crate::config::{MAX_CPUS, MAX_DEVICES};
use crate::entry::EntryKind;
use crate::rule::{Evidence, Rule};
use crate::world::World;

/// `tlb.stale-after-flush`: does some CPU hold a translation of the page that grants more than its entry? A
/// weaker one is legal: it costs a spurious fault. So is a set dirty bit that the entry has too.
pub fn stale_translation(w: &World, mm: u8, vpn: u32) -> Option<Finding> {
    for cpu in 0..MAX_CPUS {
        let tlb = &w.tlbs[cpu];
        if tlb.loaded_mm != Some(mm) {
            continue;
        }
        let Some(t) = tlb.lookup(vpn) else { continue };
        let arch = w.config.arch;
        let pte = w.leaf(mm, vpn);
        let justified = arch.pte_present(pte)
            && arch.pte_pfn(pte) == u64::from(t.pfn_of(vpn))
            && arch.hw_access(pte, false).is_some()
            && (!t.write || arch.hw_access(pte, true).is_some())
            && (!t.dirty || arch.pte_dirty(pte));
        if !justified {
            let evidence = Evidence {
                proc: Some(mm),
                vpn: Some(vpn),
                pfn: Some(t.pfn_of(vpn)),
                found: Some(cpu as u64),
                what: Some(if t.write { "rw" } else { "ro" }),
                ..Evidence::default()
            };
            return Some(Finding { rule: Rule::StaleTlb, cause: None, evidence });
        }
    }
    None
}

/// `device.stale-after-invalidate` and `device.two-exclusive`: does some device hold a translation of the page
/// that grants more than its entry?
pub fn stale_mirror(w: &World, mm: u8, vpn: u32) -> Option<Finding> {
    if w.mms[mm as usize].mirrored_by == 0 {
        return None;
    }
    let offset = w.mirror_offset(vpn);
    let ec = w.entries();
    let pte = w.leaf(mm, vpn);
    let kind = ec.kind(pte);
    let mut sole = None;
    for device in 0..MAX_DEVICES as u8 {
        let Some(m) = w.mirrors[device as usize][mm as usize].lookup(offset) else { continue };
        let named = match kind {
            EntryKind::Present => Some(ec.arch.pte_pfn(pte)),
            k if k.is_device_exclusive() || k.is_device_private() => {
                Some(ec.swp_offset_pfn(ec.arch.pte_to_swp_entry(pte)))
            }
            _ => None,
        };
        let permitted = if m.exclusive {
            kind.is_device_exclusive()
        } else {
            // The device that has a page exclusively may keep an ordinary translation of it too: its driver
            // passes over the event that it caused itself.
            kind.is_device_exclusive()
                || !m.write
                || kind == EntryKind::DevicePrivateWrite
                || kind == EntryKind::Present && ec.arch.pte_write(pte)
        };
        let evidence = Evidence {
            proc: Some(mm),
            vpn: Some(vpn),
            pfn: Some(m.pfn),
            device: Some(device),
            what: Some(if m.exclusive {
                "exclusive"
            } else if m.write {
                "rw"
            } else {
                "ro"
            }),
            on: Some(kind.name()),
            ..Evidence::default()
        };
        if named != Some(u64::from(m.pfn)) || !permitted {
            return Some(Finding { rule: Rule::StaleDevice, cause: None, evidence });
        }
        if kind.is_device_exclusive() && sole.replace(device).is_some() {
            return Some(Finding { rule: Rule::TwoExclusive, cause: None, evidence });
        }
    }
    None
}
