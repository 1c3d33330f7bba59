//! From a document to its text, in normal form.

use super::names::Bindings;
use super::{Comment, DEVICES, Document, Names, PROCS, Part, Place};
use crate::arch::Arch;
use crate::config::{Config, DefectSet, MAX_REGIONS};
use crate::observe::{Backing, FILE_NAMES};
use crate::program::case::{Action, Case, Interrupt, Map};
use crate::program::op::{Actor, Op, OpCode, Shape};
use std::fmt::Write;

/// Width of the first column of the header.
const KEY: usize = 9;

/// The text of a document. [`super::parse`] reads it back as the same document, if its case is normalised and
/// its comments are in order.
pub fn print(document: &Document) -> String {
    let layout = layout(document);
    let mut comments = document.comments.clone();
    settle(&mut comments, &layout);
    let mut comments = comments.iter().peekable();
    let mut out = String::new();
    for place in layout {
        let (indent, heading) = match place {
            Place::Map(_, part) | Place::Op(_, part) | Place::Interrupt(_, part) => {
                (if part == Part::Item { "  " } else { "" }, part == Part::Heading)
            }
            _ => ("", false),
        };
        if heading && !out.is_empty() {
            out.push('\n');
        }
        while let Some(c) = comments.next_if(|c| c.place == place && !c.trailing) {
            out.push_str(indent);
            push_comment(&mut out, c);
            out.push('\n');
        }
        if place == Place::End {
            break;
        }
        out.push_str(indent);
        out.push_str(&line(document, place));
        if let Some(c) = comments.next_if(|c| c.place == place) {
            out.push(' ');
            push_comment(&mut out, c);
        }
        out.push('\n');
    }
    out
}

fn push_comment(out: &mut String, comment: &Comment) {
    out.push('#');
    out.push_str(&one_line(&comment.text));
}

/// The text of a comment as a line can hold it.
pub(super) fn one_line(text: &str) -> String {
    text.trim_end().replace(['\n', '\r'], " ")
}

/// The lines that a document has, in order.
pub(super) fn layout(document: &Document) -> Vec<Place> {
    let (case, config) = (&document.case, &document.case.config);
    let mut places = Vec::with_capacity(case.ops.len() + case.maps.len() + case.interrupts.len() + 16);
    places.extend(document.expect.map(|_| Place::Expect));
    places.push(Place::Kernel);
    places.extend((config.arch != Arch::default()).then_some(Place::Arch));
    places.extend([Place::Geometry, Place::Cpus]);
    push_config(&mut places, config);
    places.extend(windows_to_name(document).into_iter().map(Place::Window));
    for (i, m) in case.maps.iter().enumerate() {
        let first = i == 0 || case.maps[i - 1].proc != m.proc;
        places.extend(first.then_some(Place::Map(i as u32, Part::Heading)));
        places.push(Place::Map(i as u32, Part::Item));
    }
    for (i, op) in case.ops.iter().enumerate() {
        let first = i == 0 || case.ops[i - 1].cpu != op.cpu;
        places.extend(first.then_some(Place::Op(i as u32, Part::Heading)));
        places.push(Place::Op(i as u32, Part::Item));
    }
    for i in 0..case.interrupts.len() {
        places.extend((i == 0).then_some(Place::Interrupt(0, Part::Heading)));
        places.push(Place::Interrupt(i as u32, Part::Item));
    }
    places.push(Place::End);
    places
}

/// Lines that say how the designs and defects differ from the release's.
fn push_config(places: &mut Vec<Place>, config: &Config) {
    let release = config.kernel.defects();
    let missing = release.iter().filter(|d| !config.has(*d)).count();
    let added = config.defects.iter().filter(|d| !release.contains(*d)).count();
    let none_kept = missing > 0 && missing == release.iter().count();
    let fixed = none_kept || 1 + config.defects.iter().count() < missing + added;
    let base = if fixed { DefectSet::EMPTY } else { release };
    places.extend(fixed.then_some(Place::Fixed));
    let designs = config.kernel.designs();
    places.extend(config.designs.iter().filter(|d| !designs.contains(*d)).map(Place::Design));
    places.extend(base.iter().filter(|d| !config.has(*d)).map(Place::Without));
    places.extend(config.defects.iter().filter(|d| !base.contains(*d)).map(Place::Defect));
}

/// Windows whose names a reader would not give to them unless told.
fn windows_to_name(document: &Document) -> Vec<u8> {
    let mut told = [false; MAX_REGIONS];
    // Each round tells of one window more; what is told is never wrong again.
    for _ in 0..=MAX_REGIONS {
        match first_mistake(document, &told) {
            Some(region) => told[usize::from(region)] = true,
            None => break,
        }
    }
    (0..MAX_REGIONS as u8).filter(|r| told[usize::from(*r)]).collect()
}

/// Reads the names as a parser would, and finds the first window that it would mistake.
fn first_mistake(document: &Document, told: &[bool; MAX_REGIONS]) -> Option<u8> {
    let names = &document.names;
    let mut bindings = Bindings::default();
    for r in (0..MAX_REGIONS as u8).filter(|r| told[usize::from(*r)]) {
        bindings.bind(r, names.get(r));
    }
    let mut mistaken = |region: u8, may_be_new: bool| {
        (bindings.resolve(names.get(region), may_be_new).ok() != Some(region)).then_some(region)
    };
    let mut seen = [false; MAX_REGIONS];
    for (region, may_be_new) in mentions(&document.case) {
        let first = !std::mem::replace(&mut seen[usize::from(region) % MAX_REGIONS], true);
        if let Some(region) = first.then(|| mistaken(region, may_be_new)).flatten() {
            return Some(region).filter(|r| !told[usize::from(*r) % MAX_REGIONS]);
        }
    }
    // A name that was given to a window which nothing uses.
    (0..MAX_REGIONS as u8).find(|r| {
        let r_index = usize::from(*r);
        names.given(*r).is_some() && !seen[r_index] && !told[r_index]
    })
}

/// Windows in the order in which a text names them, and whether the name may be new there.
fn mentions(case: &Case) -> impl Iterator<Item = (u8, bool)> {
    let maps = case.maps.iter().map(|m| (m.region, true));
    let ops = case.ops.iter().flat_map(|op| {
        let shape = op.code.shape();
        let none = matches!(
            shape,
            Shape::Proc
                | Shape::ProcProc
                | Shape::Block
                | Shape::Swap
                | Shape::Count
                | Shape::Cgroup
                | Shape::DeviceProc
                | Shape::File
        );
        let range = (!none).then_some((op.region, shape == Shape::Map));
        let to = (shape == Shape::RangeTo).then_some((op.to().0, true));
        range.into_iter().chain(to)
    });
    let interrupts = case.interrupts.iter().filter_map(|i| match i.action {
        Action::Switch { .. } => None,
        Action::TlbFill { region, .. } | Action::TlbEvict { region, .. } | Action::Device { region, .. } => {
            Some((region, false))
        }
    });
    maps.chain(ops).chain(interrupts)
}

/// Moves comments whose line is not in the layout above the next line that is, and puts all in order.
pub(super) fn settle(comments: &mut [Comment], layout: &[Place]) {
    comments.sort_by_key(|c| (c.place, c.trailing));
    for c in comments.iter_mut() {
        if let Err(next) = layout.binary_search(&c.place) {
            c.place = layout.get(next).copied().unwrap_or(Place::End);
            c.trailing = false;
        }
        c.trailing &= c.place != Place::End;
    }
    // At most one comment fits at the end of a line.
    let mut last = None;
    for c in comments.iter_mut().filter(|c| c.trailing) {
        c.trailing = last.replace(c.place) != Some(c.place);
    }
    comments.sort_by_key(|c| (c.place, c.trailing));
}

fn line(document: &Document, place: Place) -> String {
    let (case, names) = (&document.case, &document.names);
    let config = &case.config;
    let (key, value) = match place {
        Place::Expect => ("expect", document.expect.map_or("", |e| e.name()).to_string()),
        Place::Kernel => ("kernel", config.kernel.name().to_string()),
        Place::Arch => ("arch", config.arch.name().to_string()),
        Place::Geometry => ("geometry", config.geometry.name().to_string()),
        Place::Cpus => ("cpus", config.cpus.to_string()),
        Place::Fixed => return "fixed".to_string(),
        Place::Design(d) => ("design", d.id().to_string()),
        Place::Without(d) => ("without", d.id().to_string()),
        Place::Defect(d) => ("defect", d.id().to_string()),
        Place::Window(r) => ("window", format!("{r} {}", names.get(r))),
        Place::Map(i, Part::Heading) => return format!("process {}", proc(case.maps[i as usize].proc)),
        Place::Map(i, Part::Item) => return map_text(&case.maps[i as usize], names),
        Place::Op(i, Part::Heading) => return format!("cpu {}", case.ops[i as usize].cpu),
        Place::Op(i, Part::Item) => return op_text(&case.ops[i as usize], names),
        Place::Interrupt(_, Part::Heading) => return "interrupts".to_string(),
        Place::Interrupt(i, Part::Item) => return interrupt_text(&case.interrupts[i as usize], names),
        Place::End => return String::new(),
    };
    format!("{key:KEY$}{value}")
}

fn proc(index: u8) -> &'static str {
    PROCS[usize::from(index) % PROCS.len()]
}

fn device(index: u8) -> &'static str {
    DEVICES[usize::from(index) % DEVICES.len()]
}

/// One mapping as its line, without the process.
pub fn map_text(map: &Map, names: &Names) -> String {
    let (name, backing) = (names.get(map.region), map.backing);
    format!("{name} = mmap {} {} {} {}", backing.name(), backing.sharing(), map.perm.name(), map.pages)
}

/// One op as its line, without the CPU.
pub fn op_text(op: &Op, names: &Names) -> String {
    let mut out = String::new();
    match op.code.actor() {
        Actor::Device => out.push_str(device(op.arg)),
        Actor::User => out.push_str(proc(op.proc)),
        Actor::Kernel => {}
    }
    if !out.is_empty() {
        out.push(' ');
    }
    out.push_str(op.code.name());
    push_operands(&mut out, op, names);
    out
}

fn push_operands(out: &mut String, op: &Op, names: &Names) {
    let range = |out: &mut String| {
        let _ = match op.len {
            0 | 1 => write!(out, "{}[{}]", names.get(op.region), op.page),
            n => write!(out, "{}[{}..{}]", names.get(op.region), op.page, op.page.saturating_add(n)),
        };
    };
    out.push(' ');
    match op.code.shape() {
        Shape::Proc => {
            out.pop();
        }
        Shape::ProcProc => out.push_str(proc(op.arg)),
        Shape::Map => {
            if op.page == 0 {
                let _ = write!(out, "{} {}", names.get(op.region), op.len);
            } else {
                range(out);
            }
            let _ = write!(out, " {}", op.perm().name());
            if op.backing() != Backing::Anon {
                let _ = write!(out, " {} {}", op.backing().name(), op.backing().sharing());
            }
        }
        Shape::RangeProt => {
            range(out);
            out.push(' ');
            out.push_str(op.perm().name());
        }
        Shape::Range | Shape::Page => range(out),
        Shape::RangeTo => {
            range(out);
            let (region, page) = op.to();
            let _ = write!(out, " {}[{page}]", names.get(region));
        }
        Shape::RangeFlags => {
            range(out);
            for word in op.code.flags().iter().filter(|w| op.has_flag(w)) {
                out.push(' ');
                out.push_str(word);
            }
        }
        Shape::KernelRange | Shape::DeviceRange => {
            out.push_str(proc(op.proc));
            out.push(' ');
            range(out);
        }
        Shape::File => {
            let _ = write!(out, "{} {}", FILE_NAMES[usize::from(op.file())], op.page);
        }
        Shape::Block => {
            let _ = write!(out, "block {}", op.arg);
        }
        Shape::Count => {
            let _ = write!(out, "{}", op.arg);
        }
        Shape::Swap => {
            let _ = write!(out, "swap {}", op.arg);
        }
        Shape::Cgroup => {
            let _ = write!(out, "{} cgroup {}", proc(op.proc), op.arg);
        }
        Shape::DeviceProc => out.push_str(proc(op.proc)),
    }
}

/// One interruption as its line.
pub fn interrupt_text(interrupt: &Interrupt, names: &Names) -> String {
    let action = match interrupt.action {
        Action::Switch { cpu } => format!("cpu{cpu}"),
        Action::TlbFill { cpu, region, page } => format!("fill cpu{cpu} {}[{page}]", names.get(region)),
        Action::TlbEvict { cpu, region, page } => format!("evict cpu{cpu} {}[{page}]", names.get(region)),
        Action::Device { device: d, proc: p, region, page, write } => {
            let op = if write { OpCode::DevWrite } else { OpCode::DevRead };
            format!("{} {} {} {}[{page}]", device(d), op.name(), proc(p), names.get(region))
        }
    };
    format!("at cpu{} {} #{} -> {action}", interrupt.cpu, interrupt.site.name(), interrupt.nth)
}
