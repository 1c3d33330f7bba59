use super::*;
use crate::arch::Arch;
use crate::config::{Config, DefectSet, Geometry, Kernel};
use crate::program::case::{Action, Interrupt, MAX_BYTES, MAX_INTERRUPTS, MAX_OPS, Map};
use crate::program::codec::{is_normal, normalize};
use crate::program::generate::{GenConfig, generate};
use crate::program::op::{Op, OpCode, Perm};
use crate::program::rng::Rng;
use crate::sched::Site;

const NORMAL: &str = "\
# A story, with \u{fc}nicode.
# In two lines.
expect   progress.reclaim # what must be seen
kernel   6.12
# the other layout
arch     arm64
geometry tiny
cpus     2
fixed
design   exclusive-one-type
defect   D12 # on
window   2 spare

# Memory.
process A # the parent
  # first
  buf = mmap anon private rw 4
  log = mmap anon private ro 2 # second

process B
  buf = mmap anon private none 1

cpu 0
  A write buf[0] #1 first
  A mmap log[2..6] rw

# Elsewhere.
cpu 1
  # now the device
  gpu0 exclusive A buf[0..2]
  gpu1 close A
  offline block 1
  A exit-thread
  # twice

cpu 0
  reclaim A buf[0]
  A fork C
  A mprotect buf[0..4] ro
  B mmap map 16 none
  gpu0 read A buf[3]

interrupts # races
  at cpu0 zap_pte_range:cleared #1 -> cpu1
  at cpu0 op:start #255 -> fill cpu1 buf[15] # stale
  # gone
  at cpu1 op:start #2 -> evict cpu0 log[0]
  at cpu1 op:start #3 -> gpu1 write B buf[0]
  at cpu1 op:start #3 -> gpu0 read A buf[1]
# The end.
";

fn parsed(text: &str) -> Document {
    parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn error(text: &str) -> String {
    parse(text).map_or_else(|e| e.to_string(), |d| format!("no error:\n{d}"))
}

/// The error of an op line, which is line 2 of its text.
fn op_error(line: &str) -> String {
    error(&format!("cpu 0\n{line}\n"))
}

#[test]
fn text_in_normal_form_is_printed_as_it_was() {
    // The comment before a block stays with the next line when it stood at the end of the last block.
    let normal = NORMAL.replace("  # twice\n\ncpu 0", "\n# twice\ncpu 0");
    let document = parsed(NORMAL);
    assert_eq!(print(&document), normal);
    assert_eq!(parsed(&normal), document);
    assert_eq!(document.to_string(), normal);
}

#[test]
fn text_means_what_it_says() {
    let Document { case, expect, names, comments } = parsed(NORMAL);
    assert_eq!(expect, Some(Expect::Violation(Rule::ProgressReclaim)));
    assert_eq!((case.config.kernel, case.config.arch, case.config.cpus), (Kernel::V6_12, Arch::Arm64, 2));
    assert_eq!(case.config.defects, DefectSet::EMPTY.with(Defect::D12));
    assert_eq!(case.config.designs, Kernel::V6_12.designs().choose(Design::ExclusiveOneType));
    let map = |proc, region, pages, perm| Map { proc, region, pages, perm, backing: crate::observe::Backing::Anon };
    assert_eq!(case.maps, [map(0, 0, 4, Perm::ReadWrite), map(0, 1, 2, Perm::Read), map(1, 0, 1, Perm::None)]);
    assert_eq!(["buf", "log", "spare", "map"].map(String::from), [0, 1, 2, 3].map(|r| names.get(r).to_string()));
    assert_eq!(case.ops.len(), 11);
    assert_eq!(case.ops[0], Op::new(OpCode::Write, 0));
    assert_eq!(case.ops[1], Op { region: 1, page: 2, len: 4, arg: 2, ..Op::new(OpCode::Mmap, 0) });
    assert_eq!(case.ops[2], Op { len: 2, ..Op::new(OpCode::Exclusive, 1) });
    assert_eq!(case.ops[3], Op { len: 0, arg: 1, ..Op::new(OpCode::DevClose, 1) });
    assert_eq!(case.ops[7], Op { len: 0, arg: 2, ..Op::new(OpCode::Fork, 0) });
    assert_eq!(case.ops[10].code, OpCode::DevRead);
    let device = Action::Device { device: 1, proc: 1, region: 0, page: 0, write: true };
    assert_eq!(case.interrupts[3], Interrupt { cpu: 1, site: Site::OpStart, nth: 3, action: device });
    assert_eq!(comments.len(), NORMAL.matches('#').count() - case.interrupts.len());
}

/// A case with any configuration, operands and unused windows.
fn any_case(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let mut case = Case::empty();
    generate(&mut rng, &mut case, &GenConfig { max_ops: 40, ..GenConfig::default() });
    let config = &mut case.config;
    *config = Config::of(rng.pick(&Kernel::ALL).expect("there are kernels"));
    config.geometry = rng.pick(&Geometry::ALL).expect("there are geometries");
    config.arch = rng.pick(&Arch::ALL).expect("there are architectures");
    config.cpus = 1 + rng.below(4) as u8;
    for _ in 0..rng.below(4) {
        let defect = rng.pick(&Defect::ALL).expect("there are defects");
        config.defects = if rng.percent(50) { config.defects.with(defect) } else { config.defects.without(defect) };
        config.designs = config.designs.choose(rng.pick(&Design::ALL).expect("there are designs"));
    }
    if rng.percent(20) {
        config.defects = DefectSet::EMPTY;
    }
    for op in &mut case.ops {
        op.region = rng.below(4) as u8;
        op.len = rng.below(1 << 21);
    }
    if rng.percent(30) {
        case.maps.clear();
    }
    normalize(&mut case);
    case
}

#[test]
fn every_case_survives_its_text() {
    for seed in 0..4000 {
        let document = Document::from(any_case(seed));
        let text = print(&document);
        let again = parsed(&text);
        assert_eq!(again, document, "seed {seed}\n{text}");
        assert_eq!(print(&again), text);
    }
}

#[test]
fn names_and_comments_survive_wherever_they_are() {
    for seed in 0..3000 {
        let mut rng = Rng::new(seed);
        let mut document = Document::from(any_case(seed));
        document.expect = rng.pick(&[None, Some(Expect::Clean), Some(Expect::Violation(Rule::Rss))]).flatten();
        for r in 0..4 {
            if rng.percent(40) {
                assert!(document.names.set(r, &format!("w-{r}")));
            }
        }
        let places = print::layout(&document);
        for place in places {
            for _ in 0..rng.below(3) {
                let text = format!(" {} #{}", ["why", "", "\u{e9}t\u{e9}"][rng.index(3)], rng.below(9));
                document.comments.push(Comment { place, trailing: false, text });
            }
            if rng.percent(20) && place != Place::End {
                document.comments.push(Comment { place, trailing: true, text: "1 there".to_string() });
            }
        }
        let text = print(&document);
        assert_eq!(parsed(&text), document, "seed {seed}\n{text}");
    }
}

#[test]
fn comments_of_lines_that_are_not_printed_go_above_the_next() {
    let text =
        "# top\narch x86-64 # usual\nfixed # nothing to fix\n\ncpu 0\ncpu 0 # again\n A exit # bye\ncpu 1 # idle\n";
    let printed = print(&parsed(text));
    let expected = "\
kernel   7.3
# top
# usual
geometry tiny
cpus     2

# nothing to fix
cpu 0 # again
  A exit # bye
# idle
";
    assert_eq!(printed, expected);
    assert_eq!(print(&parsed(&printed)), printed);
}

#[test]
fn comments_of_a_case_that_lost_its_ops_are_kept_at_the_end() {
    let mut document = parsed("cpu 0\n A read heap[0] # one\n # two\n A write heap[0]\n");
    document.case.ops.clear();
    assert_eq!(print(&document), "kernel   7.3\ngeometry tiny\ncpus     2\n# one\n# two\n");
}

#[test]
fn tabs_carriage_returns_and_a_byte_order_mark_are_tolerated() {
    let text = "\u{feff}kernel\t6.15\r\n\r\ncpu\t0\r\n\tA write heap [ 0 .. 2 ]\t# why\r\n";
    assert_eq!(parsed(text), parsed("kernel 6.15\ncpu 0\nA write heap[0..2] # why"));
}

#[test]
fn a_text_of_comments_is_no_case() {
    for text in ["# nothing\n", "\n# cut sho"] {
        let error = parse(text).unwrap_err();
        assert!(error.message.contains("only comments"), "{text:?}: {error}");
        assert_eq!((error.line, error.column), (text.lines().count(), 1));
    }
    assert!(parsed("\n\t").case.ops.is_empty(), "any bytes are a case, blank ones too");
    assert!(parsed("kernel 6.12\n").case.ops.is_empty());
}

#[test]
fn a_release_is_printed_with_the_fewest_lines() {
    let header = |set: &dyn Fn(&mut Config)| {
        let mut case = Case::empty();
        case.config = Config::of(Kernel::V6_12);
        set(&mut case.config);
        let lines = print(&Document::from(case));
        lines.lines().skip(3).map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert!(header(&|_| {}).is_empty());
    assert_eq!(header(&|c| c.defects = DefectSet::EMPTY), ["fixed"]);
    assert_eq!(header(&|c| c.defects = DefectSet::EMPTY.with(Defect::S1)), ["fixed", "defect S1"]);
    assert_eq!(header(&|c| c.defects = c.defects.without(Defect::D9)), ["without D9"]);
    assert_eq!(header(&|c| c.defects = DefectSet::EMPTY.with(Defect::D12)), ["fixed", "defect D12"]);
    assert_eq!(header(&|c| c.defects = c.defects.with(Defect::D13)), ["defect D13"]);
    assert_eq!(header(&|c| c.designs = c.designs.choose(Design::RestoreByCheck)), ["design restore-by-check"]);
}

#[test]
fn unknown_words_are_found_and_the_nearest_known_one_is_named() {
    assert_eq!(error("kernle 6.12"), "1:1: unknown line `kernle`; did you mean `kernel`?");
    assert!(error("kernel 2.4").starts_with("1:8: unknown kernel `2.4`"));
    assert_eq!(error("arch mips"), "1:6: unknown architecture `mips`; expected `x86-64` or `arm64`");
    assert_eq!(
        error("expect progress.reclam"),
        "1:8: unknown verdict `progress.reclam`; did you mean `progress.reclaim`?"
    );
    assert!(error("\n  defect D99").starts_with("2:10: unknown defect `D99`"));
    assert!(error("design exclusive-one").starts_with("1:8: unknown design `exclusive-one`"));
    assert_eq!(op_error("  A raed heap[0]"), "2:5: unknown op `raed`; did you mean `read`?");
    assert_eq!(op_error("recliam A heap[0]"), "2:1: unknown op `recliam`; did you mean `reclaim`?");
    assert_eq!(op_error("E read heap[0]"), "2:1: unknown op `E`; did you mean `A`?");
    assert_eq!(op_error(" read A heap[0]"), "2:2: `read` is something that a process does: `A read ...`");
    assert_eq!(
        op_error("A reclaim heap[0]"),
        "2:3: `reclaim` is something that the kernel does by itself: `reclaim ...`"
    );
    assert_eq!(op_error("A write haep[0]"), "2:9: unknown mapping window `haep`; did you mean `heap`?");
    assert_eq!(
        error("at cpu0 zap_pte_range:claered #1 -> cpu1"),
        "1:9: unknown site `zap_pte_range:claered`; did you mean `zap_pte_range:cleared`?"
    );
}

#[test]
fn columns_are_counted_in_characters() {
    assert_eq!(
        op_error("\u{a0}\u{a0}A mprotect heap[0..4] \u{e9}"),
        "2:25: unknown protection `\u{e9}`; expected `none`, `ro` or `rw`"
    );
}

#[test]
fn numbers_out_of_range_are_errors_at_the_number() {
    assert_eq!(op_error("A write heap[16]"), "2:14: page `16` is not in 0 to 15");
    assert_eq!(op_error("A write heap[2..2]"), "2:17: end of the range `2` is not in 3 to 16");
    assert_eq!(op_error("A write heap[0..17]"), "2:17: end of the range `17` is not in 1 to 16");
    assert_eq!(op_error("A write heap[99999999999999999999]"), "2:14: page `99999999999999999999` is not in 0 to 15");
    assert_eq!(op_error("A write heap[-1]"), "2:14: expected a page, found `-1`");
    assert_eq!(op_error("offline block 4"), "2:15: block `4` is not in 0 to 3");
    assert_eq!(error("cpus 5"), "1:6: number of CPUs `5` is not in 1 to 4");
    assert_eq!(error("cpu 2"), "1:5: CPU `2` is not in 0 to 1");
    assert_eq!(error("at cpu2 op:start #1 -> cpu0"), "1:4: CPU `2` is not in 0 to 1");
    assert_eq!(error("at cpu0 op:start #0 -> cpu1"), "1:18: count `0` is not in 1 to 255");
    assert_eq!(error("at cpu0 op:start #1 -> cpu0"), "1:24: cpu0 cannot be interrupted by itself");
    assert!(parse("geometry x86-64\ncpu 0\nA write heap[16..1048576]").is_ok());
}

#[test]
fn lines_that_end_early_or_late_are_errors_at_their_end() {
    assert_eq!(op_error("A write heap"), "2:13: expected `[`, found the end of the line");
    assert_eq!(op_error("A write heap[0"), "2:15: expected `]`, found the end of the line");
    assert_eq!(op_error("A write heap[0] now"), "2:17: expected the end of the line, found `now`");
    assert_eq!(op_error("A"), "2:2: expected an op after who does it, found the end of the line");
    assert_eq!(op_error("A fork A"), "2:8: a process cannot be its own child");
    assert_eq!(error("kernel"), "1:7: expected a kernel, found the end of the line");
    assert_eq!(
        error("at cpu0 op:start # 1 -> cpu1"),
        "1:17: expected how many times, as in `#1`, found the end of the line"
    );
    assert_eq!(error("at cpu0 op:start #1 cpu1"), "1:21: expected `->`, found `cpu1`");
    assert_eq!(error("[0]"), "1:1: expected a word, found `[`");
}

#[test]
fn lines_in_the_wrong_place_are_errors() {
    assert_eq!(error("A write heap[0]"), "1:1: `A` begins an op: it needs a `cpu` line above");
    assert_eq!(error("cpu 0\nkernel 6.12"), "2:1: `kernel` belongs into the header, above the first block");
    assert_eq!(error("interrupts\nA write heap[0]"), "2:1: expected `at`, found `A`");
    assert_eq!(error("kernel 6.12\nkernel 6.15"), "2:1: a second `kernel` line for the same thing");
    assert_eq!(error("defect D12\nwithout D12"), "2:1: a second `without` line for the same thing");
    assert_eq!(
        error("design restore-by-type\ndesign restore-by-check"),
        "2:1: a second `design` line for the same thing"
    );
    let twice = "process A\n heap = mmap anon private rw 1\n heap = mmap anon private rw 1";
    assert_eq!(error(twice), "3:2: process A already maps this window");
    let five = "process A\n a = mmap anon private rw 1\n b = mmap anon private rw 1\n";
    let five = format!("{five} c = mmap anon private rw 1\n d = mmap anon private rw 1\n e = mmap anon private rw 1\n");
    assert_eq!(error(&five), "6:2: `e` would be one mapping window too many beside `a`, `b`, `c` and `d`");
    assert_eq!(error("window 0 x\nwindow 1 x"), "2:10: window 1 or the name `x` is in use");
}

// Row A3 of the source documents.
#[test]
fn a3_a_design_that_the_architecture_cannot_encode_is_an_error_whichever_line_comes_first() {
    let refused = "arm64 has no spare bit for the swap-special entry";
    assert_eq!(error("arch arm64\ndesign uffd-wp-special"), format!("2:1: {refused}"));
    assert_eq!(error("design uffd-wp-special\narch arm64"), format!("2:1: {refused}"));
    assert_eq!(parsed("arch x86-64\ndesign uffd-wp-special").case.config.arch, Arch::X86_64);
}

#[test]
fn limits_are_enforced_with_a_place() {
    let ops = format!("cpu 0\n{}", "A exit\n".repeat(MAX_OPS));
    assert_eq!(parsed(&ops).case.ops.len(), MAX_OPS);
    assert_eq!(error(&format!("{ops}A exit")), "4098:1: a case has at most 4096 ops");
    let interrupts = "at cpu0 op:start #1 -> cpu1\n".repeat(MAX_INTERRUPTS);
    assert_eq!(parsed(&interrupts).case.interrupts.len(), MAX_INTERRUPTS);
    let more = format!("{interrupts}at cpu0 op:start #1 -> cpu1");
    assert_eq!(error(&more), "257:4: a case has at most 256 interruptions");
    let long = "#".repeat(MAX_BYTES + 1);
    assert_eq!(error(&long), "1:1: the text has 1048577 bytes, at most 1048576 are read");
}

#[test]
fn bytes_that_are_not_utf8_are_an_error_with_a_place() {
    let error = parse_bytes(b"kernel 6.12\n# \xc3\xa9 \xff").expect_err("not UTF-8");
    assert_eq!(error.to_string(), "2:5: byte 0xff is not UTF-8");
    assert_eq!(parse_bytes(b"kernel 6.15"), parse("kernel 6.15"));
}

#[test]
fn default_names_keep_their_windows_and_new_names_take_the_first_free_one() {
    let d = parsed(
        "process A\n stack = mmap anon private rw 1\n x = mmap anon private rw 1\ncpu 0\n A mmap y 2 rw\n A read map[0]",
    );
    assert_eq!(d.case.maps.iter().map(|m| m.region).collect::<Vec<_>>(), [2, 0]);
    assert_eq!(d.case.ops.iter().map(|o| o.region).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(parsed(&print(&d)), d);
}

#[test]
fn any_text_made_of_known_words_is_parsed_or_refused_but_never_panics() {
    let words = [
        "A",
        "B",
        "gpu0",
        "cpu",
        "cpu0",
        "0",
        "1",
        "16",
        "heap",
        "[",
        "]",
        "..",
        "->",
        "#1",
        "#",
        "=",
        "at",
        "write",
        "mmap",
        "anon",
        "private",
        "rw",
        "process",
        "kernel",
        "6.12",
        "expect",
        "clean",
        "\n",
        "\n",
        "\n",
        "interrupts",
        "op:start",
        "fork",
        "offline",
        "block",
        "window",
        "x",
        "\u{e9}",
        "\r",
        "fixed",
        "defect",
        "D12",
    ];
    let mut rng = Rng::new(9);
    let mut good = 0;
    for _ in 0..20_000 {
        let text: Vec<&str> = (0..rng.below(12)).map(|_| words[rng.index(words.len())]).collect();
        if let Ok(document) = parse(&text.join(" ")) {
            assert!(is_normal(&document.case));
            assert_eq!(parsed(&print(&document)), document);
            good += 1;
        }
    }
    assert!(good > 100, "{good}");
}

#[test]
fn a_text_with_one_character_changed_is_parsed_or_refused_but_never_panics() {
    let mut rng = Rng::new(10);
    let chars: Vec<char> = NORMAL.chars().collect();
    for _ in 0..20_000 {
        let mut text = chars.clone();
        let at = rng.index(text.len());
        match rng.below(3) {
            0 => text[at] = char::from(rng.below(128) as u8),
            1 => drop(text.remove(at)),
            _ => text.truncate(at),
        }
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(document) => assert_eq!(parsed(&print(&document)), document, "{text}"),
            Err(e) => assert!(e.line <= text.lines().count() && e.column >= 1),
        }
    }
}
