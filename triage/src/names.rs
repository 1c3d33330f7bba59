//! How processes, devices, pages and ops of a case are spelled: as its text form spells them.

use ptefuzz_core::observe::Agent;
use ptefuzz_core::program::text::{DEVICES, Document, PROCS, map_text, op_text};
use ptefuzz_core::program::{Map, Op};

/// Name of a process.
pub fn process(proc: u8) -> String {
    PROCS.get(usize::from(proc)).map_or_else(|| format!("process {proc}"), |name| (*name).to_owned())
}

/// Name of a device.
pub fn device(device: u8) -> String {
    DEVICES.get(usize::from(device)).map_or_else(|| format!("gpu{device}"), |name| (*name).to_owned())
}

/// Who made an access.
pub fn agent(by: Agent) -> String {
    match by {
        Agent::Cpu(cpu) => format!("cpu{cpu}"),
        Agent::Device(device) => self::device(device),
        Agent::Dma => "DMA".to_string(),
        Agent::Debugger => "a debugger".to_string(),
    }
}

/// A page, given as process and virtual page number, for example `A heap[0]`.
pub fn page((proc, vpn): (u8, u32), doc: &Document) -> String {
    match doc.case.config.geometry.region_of(vpn) {
        Some((region, page)) => format!("{} {}[{page}]", process(proc), doc.names.get(region)),
        None => format!("{} page {vpn}", process(proc)),
    }
}

/// Number of an op in messages: its index in the case, counted from 1.
pub fn number(op: u32) -> u32 {
    op.saturating_add(1)
}

/// A mapping, for example `A heap = mmap anon private rw 4`.
pub fn map(map: &Map, doc: &Document) -> String {
    format!("{} {}", process(map.proc), map_text(map, &doc.names))
}

/// An op.
pub fn op(op: &Op, doc: &Document) -> String {
    op_text(op, &doc.names)
}

#[cfg(test)]
mod tests {
    use ptefuzz_core::program::Case;

    use super::*;

    #[test]
    fn a_page_is_named_by_its_process_and_window() {
        let doc = Document::from(Case::empty());
        let base = doc.case.config.geometry.region_base(1);
        assert_eq!(page((1, base + 3), &doc), "B data[3]");
        assert_eq!(page((0, 0), &doc), "A page 0");
    }
}
