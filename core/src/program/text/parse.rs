//! From text to a document.

use super::lex::{Token, lex};
use super::names::Bindings;
use super::print::{layout, one_line, settle};
use super::suggest::{list, quote, unknown};
use super::words::{Result, Words};
use super::{Comment, DEVICES, Document, Expect, PROCS, ParseError, Part, Place};
use crate::arch::Arch;
use crate::config::{Config, Defect, Design, Geometry, Kernel, MAX_CPUS, MAX_REGIONS, MAX_SWAP_DEVICES};
use crate::entry::EntryConfig;
use crate::observe::{Backing, FILE_NAMES};
use crate::phys::MAX_MEMCGS;
use crate::program::case::{Action, Case, Interrupt, MAX_BYTES, MAX_INTERRUPTS, MAX_OPS, Map};
use crate::program::codec::normalize;
use crate::program::op::{Actor, MAX_NR_HUGEPAGES, Op, OpCode, Perm, Shape, TO_PAGES};
use crate::rule::Rule;
use crate::sched::Site;

/// Words that a header line can begin with.
const HEADER: [&str; 10] =
    ["expect", "kernel", "arch", "geometry", "cpus", "fixed", "design", "without", "defect", "window"];
/// Words that the heading of a block, or a line that belongs to none, can begin with.
const BLOCKS: [&str; 4] = ["process", "cpu", "interrupts", "at"];

/// Reads a text as a document.
///
/// # Errors
///
/// The first thing that cannot be understood, or a limit ([`MAX_BYTES`], [`MAX_OPS`], [`MAX_INTERRUPTS`]).
pub fn parse(text: &str) -> std::result::Result<Document, ParseError> {
    if text.len() > MAX_BYTES {
        let message = format!("the text has {} bytes, at most {MAX_BYTES} are read", text.len());
        return Err(ParseError { line: 1, column: 1, message });
    }
    let mut parser = Parser::default();
    let mut lines = 0;
    for (i, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        lines = i + 1;
        let inside = line.trim_end_matches('\r');
        if let Some(at) = inside.find('\r') {
            let column = inside[..at].chars().count() + 1;
            let message = "a carriage return inside a line; lines end with a line feed".to_owned();
            return Err(ParseError { line: i + 1, column, message });
        }
        parser.line(i + 1, line)?;
    }
    if !parser.said && !parser.pending.is_empty() {
        // Perhaps a file that was cut short: it must not pass for a case in which nothing goes wrong.
        let message = "there is no case here, only comments".to_owned();
        return Err(ParseError { line: lines.max(1), column: 1, message });
    }
    Ok(parser.finish())
}

/// Reads the bytes of a file as a document.
///
/// # Errors
///
/// Those of [`parse`], and the place of the first byte that is not UTF-8.
pub fn parse_bytes(bytes: &[u8]) -> std::result::Result<Document, ParseError> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return parse(text),
        Err(error) => error,
    };
    let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
    let line = before.split('\n').count();
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    let message = format!("byte {:#04x} is not UTF-8", bytes[error.valid_up_to()]);
    Err(ParseError { line, column, message })
}

/// The block that a line belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    Header,
    Process(u8),
    Cpu(u8),
    Interrupts,
}

struct Parser {
    block: Block,
    header: Header,
    case: Case,
    expect: Option<Expect>,
    bindings: Bindings,
    comments: Vec<Comment>,
    /// Whole-line comments that wait for their line.
    pending: Vec<String>,
    /// There was a line that is no comment.
    said: bool,
}

#[derive(Default)]
struct Header {
    seen: Vec<Place>,
    kernel: Option<Kernel>,
    arch: Option<Arch>,
    geometry: Option<Geometry>,
    cpus: Option<u8>,
    fixed: bool,
}

impl Header {
    fn config(&self) -> Config {
        let kernel = self.kernel.unwrap_or(Kernel::NEWEST);
        let mut config = if self.fixed { Config::fixed(kernel) } else { Config::of(kernel) };
        config.arch = self.arch.unwrap_or(config.arch);
        config.geometry = self.geometry.unwrap_or(config.geometry);
        config.cpus = self.cpus.unwrap_or(config.cpus);
        for place in &self.seen {
            match *place {
                Place::Design(d) => config.designs = config.designs.choose(d),
                Place::Without(d) => config.defects = config.defects.without(d),
                Place::Defect(d) => config.defects = config.defects.with(d),
                _ => {}
            }
        }
        config
    }

    /// Another line that says the same, or the opposite.
    fn clash(&self, place: Place) -> bool {
        self.seen.iter().any(|seen| match (*seen, place) {
            (Place::Design(a), Place::Design(b)) => a.group() == b.group(),
            (Place::Without(a) | Place::Defect(a), Place::Without(b) | Place::Defect(b)) => a == b,
            (a, b) => a == b,
        })
    }
}

impl Default for Parser {
    fn default() -> Self {
        Parser {
            block: Block::Header,
            header: Header::default(),
            case: Case::empty(),
            expect: None,
            bindings: Bindings::default(),
            comments: Vec::new(),
            pending: Vec::new(),
            said: false,
        }
    }
}

impl Parser {
    fn line(&mut self, number: usize, line: &str) -> Result<()> {
        let lexed = lex(line);
        if lexed.tokens.is_empty() {
            self.pending.extend(lexed.comment.map(one_line));
            return Ok(());
        }
        self.said = true;
        let mut words = Words::new(number, &lexed);
        let place = self.item(&mut words)?;
        words.end()?;
        let above = self.pending.drain(..).map(|text| Comment { place, trailing: false, text });
        self.comments.extend(above);
        self.comments.extend(lexed.comment.map(|text| Comment { place, trailing: true, text: one_line(text) }));
        Ok(())
    }

    fn finish(mut self) -> Document {
        self.leave_header();
        let place = Place::End;
        self.comments.extend(self.pending.drain(..).map(|text| Comment { place, trailing: false, text }));
        normalize(&mut self.case);
        let names = self.bindings.names();
        let mut document = Document { case: self.case, expect: self.expect, names, comments: Vec::new() };
        let layout = layout(&document);
        settle(&mut self.comments, &layout);
        document.comments = self.comments;
        document
    }

    fn leave_header(&mut self) {
        if self.block == Block::Header {
            self.case.config = self.header.config();
        }
    }

    fn item(&mut self, words: &mut Words<'_, '_>) -> Result<Place> {
        let column = words.column();
        let Some(Token::Word(first)) = words.peek() else {
            return words.expected("a word");
        };
        if BLOCKS.contains(&first) {
            words.word("a block")?;
            return self.block_line(first, words);
        }
        match self.block {
            Block::Header => {
                words.word("a header line")?;
                self.header_line(first, column, words)
            }
            _ if HEADER.contains(&first) && words.peek_second() != Some(Token::Equals) => {
                words.error_at(column, format!("`{first}` belongs into the header, above the first block"))
            }
            Block::Process(proc) => self.map_line(proc, words),
            Block::Cpu(cpu) => self.op_line(cpu, words),
            Block::Interrupts => words.error_at(column, format!("expected `at`, found {}", quote(first))),
        }
    }

    fn block_line(&mut self, first: &str, words: &mut Words<'_, '_>) -> Result<Place> {
        self.leave_header();
        match first {
            "process" => {
                self.block = Block::Process(words.proc()?);
                Ok(Place::Map(self.case.maps.len() as u32, Part::Heading))
            }
            "cpu" => {
                let last = u32::from(self.case.config.cpus) - 1;
                self.block = Block::Cpu(words.number("CPU", 0, last)? as u8);
                Ok(Place::Op(self.case.ops.len() as u32, Part::Heading))
            }
            "interrupts" => {
                self.block = Block::Interrupts;
                Ok(Place::Interrupt(self.case.interrupts.len() as u32, Part::Heading))
            }
            _ => {
                if self.block == Block::Header {
                    self.block = Block::Interrupts;
                }
                self.interrupt_line(words)
            }
        }
    }

    fn header_line(&mut self, key: &str, column: usize, words: &mut Words<'_, '_>) -> Result<Place> {
        let header = &mut self.header;
        let place = match key {
            "expect" => {
                let known = || std::iter::once("clean").chain(Rule::ALL.into_iter().map(Rule::id)).collect();
                let find = |w: &str| match w {
                    "clean" => Some(Expect::Clean),
                    _ => Rule::from_id(w).map(Expect::Violation),
                };
                self.expect = Some(words.lookup("verdict", find, known)?);
                Place::Expect
            }
            "kernel" => {
                header.kernel =
                    Some(words.lookup("kernel", Kernel::from_name, || Kernel::ALL.map(Kernel::name).to_vec())?);
                Place::Kernel
            }
            "arch" => {
                header.arch =
                    Some(words.lookup("architecture", Arch::from_name, || Arch::ALL.map(Arch::name).to_vec())?);
                Place::Arch
            }
            "geometry" => {
                let known = || Geometry::ALL.map(Geometry::name).to_vec();
                header.geometry = Some(words.lookup("geometry", Geometry::from_name, known)?);
                Place::Geometry
            }
            "cpus" => {
                header.cpus = Some(words.number("number of CPUs", 1, MAX_CPUS as u32)? as u8);
                Place::Cpus
            }
            "fixed" => {
                header.fixed = true;
                Place::Fixed
            }
            "design" => {
                Place::Design(words.lookup("design", Design::from_id, || Design::ALL.map(Design::id).to_vec())?)
            }
            "without" => Place::Without(defect(words)?),
            "defect" => Place::Defect(defect(words)?),
            "window" => self.window_line(words)?,
            _ => return words.error_at(column, unknown_first(key)),
        };
        if self.header.clash(place) {
            return words.error_at(column, format!("a second `{key}` line for the same thing"));
        }
        self.header.seen.push(place);
        // A design may need a bit that the architecture does not have.
        if let Err(error) = EntryConfig::of(&self.header.config()).check() {
            return words.error_at(column, error.to_string());
        }
        Ok(place)
    }

    fn window_line(&mut self, words: &mut Words<'_, '_>) -> Result<Place> {
        let region = words.number("window", 0, MAX_REGIONS as u32 - 1)? as u8;
        let (name, column) = words.word("a name")?;
        if !super::names::is_name(name) {
            return words.error_at(column, format!("expected a name, found {}", quote(name)));
        }
        if !self.bindings.bind(region, name) {
            return words.error_at(column, format!("window {region} or the name {} is in use", quote(name)));
        }
        Ok(Place::Window(region))
    }

    /// `heap = mmap anon private rw 4`
    fn map_line(&mut self, proc: u8, words: &mut Words<'_, '_>) -> Result<Place> {
        let column = words.column();
        let region = words.window(&mut self.bindings, true)?;
        words.token(Token::Equals)?;
        words.keyword("kind of mapping", "mmap")?;
        let backing = backing(words)?;
        let perm = perm(words)?;
        let pages = words.number("number of pages", 1, self.case.config.geometry.region_pages())?;
        if self.case.maps.iter().any(|m| (m.proc, m.region) == (proc, region)) {
            return words.error_at(column, format!("process {} already maps this window", PROCS[usize::from(proc)]));
        }
        self.case.maps.push(Map { proc, region, pages, perm, backing });
        Ok(Place::Map(self.case.maps.len() as u32 - 1, Part::Item))
    }

    fn op_line(&mut self, cpu: u8, words: &mut Words<'_, '_>) -> Result<Place> {
        let column = words.column();
        let op = self.op(cpu, words)?;
        if self.case.ops.len() == MAX_OPS {
            return words.error_at(column, format!("a case has at most {MAX_OPS} ops"));
        }
        self.case.ops.push(op);
        Ok(Place::Op(self.case.ops.len() as u32 - 1, Part::Item))
    }

    fn op(&mut self, cpu: u8, words: &mut Words<'_, '_>) -> Result<Op> {
        let mut op = Op { len: 0, ..Op::new(OpCode::Read, cpu) };
        let actor = match words.peek() {
            Some(Token::Word(w)) if PROCS.contains(&w) => {
                op.proc = words.proc()?;
                Actor::User
            }
            Some(Token::Word(w)) if DEVICES.contains(&w) => {
                op.arg = words.device()?;
                Actor::Device
            }
            _ => Actor::Kernel,
        };
        op.code = op_code(actor, words)?;
        self.operands(&mut op, words)?;
        Ok(op)
    }

    fn operands(&mut self, op: &mut Op, words: &mut Words<'_, '_>) -> Result<()> {
        let config = &self.case.config;
        match op.code.shape() {
            Shape::Proc => {}
            Shape::ProcProc => {
                let column = words.column();
                op.arg = words.proc()?;
                if op.arg == op.proc {
                    return words.error_at(column, "a process cannot be its own child");
                }
            }
            Shape::Map => {
                op.region = words.window(&mut self.bindings, true)?;
                if words.peek() == Some(Token::Open) {
                    (op.page, op.len) = words.range(config)?;
                } else {
                    op.len = words.number("number of pages", 1, config.geometry.region_pages())?;
                }
                let perm = perm(words)?;
                let backing = if words.peek().is_some() { backing(words)? } else { Backing::Anon };
                op.arg = Op::map_arg(perm, backing);
            }
            Shape::File => {
                let known = |w: &str| FILE_NAMES.into_iter().position(|n| n == w);
                op.arg = words.lookup("file", known, || FILE_NAMES.to_vec())? as u8;
                op.page = words.number("size in pages", 0, config.geometry.region_pages() - 1)?;
                op.len = 1;
            }
            Shape::Page => {
                op.region = words.window(&mut self.bindings, false)?;
                (op.page, op.len) = (words.page(config)?, 1);
            }
            Shape::Block => {
                words.keyword("unit", "block")?;
                op.arg = words.number("block", 0, config.geometry.movable_blocks() - 1)? as u8;
            }
            Shape::Count => op.arg = words.number("number of huge pages", 0, u32::from(MAX_NR_HUGEPAGES))? as u8,
            Shape::Swap => {
                words.keyword("unit", "swap")?;
                op.arg = words.number("swap device", 0, MAX_SWAP_DEVICES as u32 - 1)? as u8;
            }
            Shape::Cgroup => {
                op.proc = words.proc()?;
                words.keyword("unit", "cgroup")?;
                op.arg = words.number("control group", 0, MAX_MEMCGS as u32 - 1)? as u8;
            }
            Shape::RangeTo => self.range_to(op, words)?,
            Shape::DeviceProc => op.proc = words.proc()?,
            shape @ (Shape::Range | Shape::RangeFlags | Shape::RangeProt | Shape::KernelRange | Shape::DeviceRange) => {
                if matches!(shape, Shape::KernelRange | Shape::DeviceRange) {
                    op.proc = words.proc()?;
                }
                op.region = words.window(&mut self.bindings, false)?;
                (op.page, op.len) = words.range(config)?;
                if shape == Shape::RangeProt {
                    op.arg = perm(words)? as u8;
                }
                if shape == Shape::RangeFlags {
                    op.arg = flags(op.code, words)?;
                }
            }
        }
        Ok(())
    }

    /// `heap[0..2] data[4]`: a range, and the page that its first page goes to.
    fn range_to(&mut self, op: &mut Op, words: &mut Words<'_, '_>) -> Result<()> {
        let config = &self.case.config;
        op.region = words.window(&mut self.bindings, false)?;
        (op.page, op.len) = words.range(config)?;
        let region = words.window(&mut self.bindings, true)?;
        let column = words.column();
        let page = words.page(config)?;
        let room = (config.geometry.region_pages() - op.len + 1).min(TO_PAGES);
        if page >= room {
            return words.error_at(column, format!("the range fits in at pages 0 to {} only", room - 1));
        }
        op.arg = Op::arg_to(region, page);
        Ok(())
    }

    /// `at cpu0 zap_pte_range:cleared #1 -> cpu1`, after the `at`.
    fn interrupt_line(&mut self, words: &mut Words<'_, '_>) -> Result<Place> {
        let start = words.column();
        let cpu = words.cpu(&self.case.config)?;
        let site = words.lookup("site", Site::from_name, || Site::ALL.map(Site::name).to_vec())?;
        let nth = words.nth()?;
        words.token(Token::Arrow)?;
        let action = self.action(cpu, words)?;
        if self.case.interrupts.len() == MAX_INTERRUPTS {
            return words.error_at(start, format!("a case has at most {MAX_INTERRUPTS} interruptions"));
        }
        self.case.interrupts.push(Interrupt { cpu, site, nth, action });
        Ok(Place::Interrupt(self.case.interrupts.len() as u32 - 1, Part::Item))
    }

    fn action(&mut self, interrupted: u8, words: &mut Words<'_, '_>) -> Result<Action> {
        let config = &self.case.config;
        let column = words.column();
        match words.peek() {
            Some(Token::Word(kind @ ("fill" | "evict"))) => {
                words.word("an action")?;
                let cpu = words.cpu(config)?;
                let region = words.window(&mut self.bindings, false)?;
                let page = words.page(config)?;
                let fill = kind == "fill";
                Ok(if fill { Action::TlbFill { cpu, region, page } } else { Action::TlbEvict { cpu, region, page } })
            }
            Some(Token::Word(w)) if DEVICES.contains(&w) => {
                let device = words.device()?;
                let access = |w: &str| [OpCode::DevRead, OpCode::DevWrite].into_iter().find(|c| c.name() == w);
                let known = || vec![OpCode::DevRead.name(), OpCode::DevWrite.name()];
                let write = words.lookup("access", access, known)? == OpCode::DevWrite;
                let proc = words.proc()?;
                let region = words.window(&mut self.bindings, false)?;
                Ok(Action::Device { device, proc, region, page: words.page(config)?, write })
            }
            Some(Token::Word(w)) if w.starts_with("cpu") => {
                let cpu = words.cpu(config)?;
                if cpu == interrupted {
                    return words.error_at(column, format!("cpu{cpu} cannot be interrupted by itself"));
                }
                Ok(Action::Switch { cpu })
            }
            _ => words.expected("a CPU, `fill`, `evict` or a device"),
        }
    }
}

fn defect(words: &mut Words<'_, '_>) -> Result<Defect> {
    words.lookup("defect", Defect::from_id, || Defect::ALL.map(Defect::id).to_vec())
}

/// `anon private`, `shmem shared` and so on.
fn backing(words: &mut Words<'_, '_>) -> Result<Backing> {
    let named = |w: &str| Backing::ALL.into_iter().find(|b| b.name() == w).map(Backing::name);
    let mut names = Backing::ALL.map(Backing::name).to_vec();
    names.dedup();
    let name = words.lookup("kind of memory", named, || names)?;
    let known = || Backing::ALL.into_iter().filter(|b| b.name() == name).map(Backing::sharing).collect();
    words.lookup("kind of mapping", |w| Backing::from_words(name, w), known)
}

/// Words of [`OpCode::flags`] up to the end of the line.
fn flags(code: OpCode, words: &mut Words<'_, '_>) -> Result<u8> {
    let mut bits = 0;
    while words.peek().is_some() {
        let known = code.flags();
        let bit = words.lookup("flag", |w| known.iter().position(|k| *k == w), || known.to_vec())?;
        bits |= 1 << bit;
    }
    Ok(bits)
}

fn perm(words: &mut Words<'_, '_>) -> Result<Perm> {
    words.lookup("protection", Perm::from_name, || Perm::ALL.map(Perm::name).to_vec())
}

/// The op with this name that `actor` can do.
fn op_code(actor: Actor, words: &mut Words<'_, '_>) -> Result<OpCode> {
    let column = words.column();
    let (name, _) = words.word(match actor {
        Actor::Kernel => "an op",
        _ => "an op after who does it",
    })?;
    let of = |actor: Actor| OpCode::ALL.into_iter().filter(move |c| c.actor() == actor);
    if let Some(code) = of(actor).find(|c| c.name() == name) {
        return Ok(code);
    }
    if let Some(code) = OpCode::ALL.into_iter().find(|c| c.name() == name) {
        let example = match code.actor() {
            Actor::User => format!("a process does: `A {name} ...`"),
            Actor::Device => format!("a device does: `gpu0 {name} ...`"),
            Actor::Kernel => format!("the kernel does by itself: `{name} ...`"),
        };
        return words.error_at(column, format!("`{name}` is something that {example}"));
    }
    let mut known: Vec<&str> = of(actor).map(OpCode::name).collect();
    if actor != Actor::Kernel {
        return words.error_at(column, unknown("op", name, &known));
    }
    known.extend(PROCS);
    known.extend(DEVICES);
    let message = unknown("op", name, &known);
    let hint =
        if message.contains(';') { "" } else { "; a line begins with a process, a device or a job of the kernel" };
    words.error_at(column, message + hint)
}

/// A first word that neither a header nor a block begins with.
fn unknown_first(word: &str) -> String {
    let is_op = OpCode::ALL.into_iter().any(|c| c.name() == word);
    if is_op || PROCS.contains(&word) || DEVICES.contains(&word) {
        return format!("{} begins an op: it needs a `cpu` line above", quote(word));
    }
    let mut known = HEADER.to_vec();
    known.extend(BLOCKS);
    let message = unknown("line", word, &known);
    if message.contains(';') { message } else { format!("{message}; expected {}", list(&known)) }
}
