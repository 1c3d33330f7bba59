use super::*;
use crate::config::{Defect, Design};
use crate::program::case::{Action, Interrupt, MAX_INTERRUPTS, MAX_OPS};
use crate::program::generate::{GenConfig, generate};
use crate::program::op::{Op, OpCode};
use crate::program::rng::Rng;
use crate::sched::Site;
use arbitrary::{Arbitrary, Unstructured};

fn random_bytes(rng: &mut Rng, n: usize) -> Vec<u8> {
    (0..n).map(|_| rng.next_u64() as u8).collect()
}

/// A normalised case with any configuration, far operands included.
fn any_case(seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let mut case = Case::empty();
    generate(&mut rng, &mut case, &GenConfig { max_ops: 40, ..GenConfig::default() });
    let config = &mut case.config;
    config.kernel = rng.pick(&Kernel::ALL).expect("there are kernels");
    config.arch = rng.pick(&Arch::ALL).expect("there are architectures");
    config.geometry = rng.pick(&Geometry::ALL).expect("there are geometries");
    config.cpus = 1 + rng.below(4) as u8;
    config.defects = DefectSet::from_bits(std::array::from_fn(|_| rng.next_u64()));
    config.designs = config.kernel.designs();
    for _ in 0..rng.below(3) {
        config.designs = config.designs.choose(rng.pick(&Design::ALL).expect("there are designs"));
    }
    for op in &mut case.ops {
        if rng.percent(30) {
            (op.page, op.len, op.arg) = (rng.below(1 << 20), rng.below(1 << 21), rng.below(256) as u8);
        }
    }
    for i in &mut case.interrupts {
        i.nth = rng.below(256) as u8;
    }
    normalize(&mut case);
    case
}

#[test]
fn every_normalised_case_survives_the_full_layout() {
    for seed in 0..5000 {
        let case = any_case(seed);
        let bytes = encode(&case);
        assert_eq!(decode(&bytes), case, "seed {seed}");
        assert_eq!(decode_strict(&bytes), Ok(case), "seed {seed}");
    }
}

#[test]
fn the_largest_case_survives_the_full_layout() {
    let mut case = Case::empty();
    case.config.geometry = Geometry::X86_64;
    case.ops = vec![Op { page: 1, len: (1 << 20) - 1, ..Op::new(OpCode::Write, 1) }; MAX_OPS];
    case.ops[0] = Op { len: 1 << 20, ..Op::new(OpCode::Write, 0) };
    let action = Action::Device { device: 1, proc: 3, region: 3, page: (1 << 20) - 1, write: true };
    case.interrupts = vec![Interrupt { cpu: 1, site: Site::ReferencedEntry, nth: 255, action }; MAX_INTERRUPTS];
    assert!(is_normal(&case));
    assert_eq!(decode_strict(&encode(&case)), Ok(case));
}

#[test]
fn any_bytes_of_any_length_are_a_normalised_case_that_the_raw_layout_keeps() {
    let mut rng = Rng::new(2);
    let mut reused = Case::empty();
    for n in 0..=600 {
        for _ in 0..8 {
            let bytes = random_bytes(&mut rng, n);
            let case = decode(&bytes);
            decode_into(&mut reused, &bytes);
            assert_eq!(case, reused);
            assert!(is_normal(&case), "{bytes:?}");
            assert!(case.ops.len() <= MAX_FUZZ_OPS && case.interrupts.len() <= MAX_FUZZ_INTERRUPTS);
            assert_eq!(case.config.geometry, Geometry::Tiny);
            assert!(case.config.defects.is_empty(), "bytes switch on no defects");
            assert_eq!(decode(&encode_raw(&case)), case);
            assert_eq!(decode_strict(&bytes), Ok(case));
        }
    }
}

#[test]
fn any_bytes_behind_the_magic_are_a_normalised_case() {
    let mut rng = Rng::new(3);
    for n in 0..600 {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(random_bytes(&mut rng, n));
        assert!(is_normal(&decode(&bytes)));
        assert!(decode_strict(&bytes).is_err());
    }
}

#[test]
fn a_truncated_full_case_keeps_its_beginning() {
    let case = any_case(12);
    let bytes = encode(&case);
    for n in MAGIC.len()..bytes.len() {
        let part = decode(&bytes[..n]);
        assert!(is_normal(&part) && part.ops.len() <= case.ops.len());
        let expected = if n < 64 { 64 } else { bytes.len() };
        assert_eq!(decode_strict(&bytes[..n]), Err(CodecError::Truncated { offset: n, expected }));
    }
}

#[test]
fn the_strict_decoder_says_where_the_frame_is_wrong() {
    let bytes = encode(&any_case(1));
    let mut longer = bytes.clone();
    longer.extend([1, 2, 3]);
    let error = decode_strict(&longer).expect_err("three bytes too many");
    assert_eq!(error, CodecError::Trailing { offset: bytes.len(), bytes: 3 });
    assert_eq!(error.to_string(), format!("byte {}: 3 more bytes after the end of the case", bytes.len()));

    let mut newer = bytes.clone();
    newer[8] = 9;
    assert_eq!(decode_strict(&newer), Err(CodecError::Version { found: 9 }));

    let mut huge = bytes.clone();
    huge[56..60].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode_strict(&huge).expect_err("too many ops");
    assert_eq!(error.to_string(), "byte 56: 4294967295 ops, at most 4096 are allowed");

    let mut wrong = bytes;
    wrong[9] = 77;
    assert_eq!(decode_strict(&wrong), Err(CodecError::Value { offset: 9 }));
}

#[test]
fn no_bytes_are_a_case_with_a_map_and_no_ops() {
    let case = decode(&[]);
    assert_eq!(case.maps, [Map { proc: 0, region: 0, pages: 4, perm: Perm::ReadWrite, backing: Backing::Anon }]);
    assert!(case.ops.is_empty() && case.interrupts.is_empty());
    assert_eq!(case.config, Config::fixed(Kernel::NEWEST));
}

#[test]
fn the_default_map_has_four_to_eight_pages() {
    for byte in 0..64 {
        let case = decode(&[0, 0, 0, byte << 2]);
        assert_eq!(case.maps.len(), 1);
        assert!((4..=8).contains(&case.maps[0].pages));
        assert_eq!(decode(&encode_raw(&case)), case);
    }
}

#[test]
fn one_byte_of_a_record_is_an_op_already() {
    let mut bytes = vec![0; RAW_HEADER];
    bytes.push(OpCode::Write as u8);
    let case = decode(&bytes);
    assert_eq!(case.ops, [Op::new(OpCode::Write, 0)]);
}

#[test]
fn normalising_repairs_what_is_out_of_range_and_leaves_the_rest() {
    let mut case = Case::empty();
    case.config.cpus = 200;
    let op = Op { code: OpCode::Fork, cpu: 9, proc: 5, region: 6, page: 7, len: 8, arg: 1 };
    let map = Map { proc: 0, region: 0, pages: 999, perm: Perm::Read, backing: Backing::Anon };
    case.maps = vec![map, Map { pages: 1, ..map }, Map { proc: 1, pages: 0, ..map }];
    case.ops = vec![
        op,
        Op { code: OpCode::Write, page: 14, len: 2, ..op },
        Op { code: OpCode::Write, page: 14, len: 3, ..op },
        Op { code: OpCode::Offline, arg: 6, ..op },
        Op { code: OpCode::Pin, page: 20, ..op },
        Op { code: OpCode::Mprotect, page: 0, len: 16, arg: 5, ..op },
    ];
    case.interrupts = vec![Interrupt { cpu: 5, site: Site::Lock, nth: 0, action: Action::Switch { cpu: 1 } }];
    normalize(&mut case);
    assert_eq!(case.config.cpus, 4);
    let pages: Vec<_> = case.maps.iter().map(|m| (m.proc, m.pages)).collect();
    assert_eq!(pages, [(0, 7), (1, 1)]);
    let fork = Op { code: OpCode::Fork, cpu: 1, proc: 1, region: 0, page: 0, len: 0, arg: 2 };
    let range = |page, len| Op { code: OpCode::Write, cpu: 1, proc: 1, region: 2, page, len, arg: 0 };
    assert_eq!(case.ops[..3], [fork, range(14, 2), range(14, 1)]);
    assert_eq!(case.ops[3], Op { code: OpCode::Offline, proc: 0, arg: 2, ..fork });
    assert_eq!(case.ops[4], Op { code: OpCode::Pin, ..range(4, 1) });
    assert_eq!(case.ops[5], Op { code: OpCode::Mprotect, arg: 2, ..range(0, 16) });
    assert_eq!((case.interrupts[0].nth, case.interrupts[0].action), (1, Action::Switch { cpu: 2 }));
}

#[test]
fn a_machine_with_one_cpu_has_nobody_to_switch_to() {
    let mut case = Case::empty();
    let switch = Interrupt { cpu: 0, site: Site::Lock, nth: 1, action: Action::Switch { cpu: 1 } };
    case.interrupts = vec![switch, Interrupt { action: Action::TlbFill { cpu: 1, region: 0, page: 0 }, ..switch }];
    case.config.cpus = 1;
    normalize(&mut case);
    assert_eq!(case.interrupts.len(), 1);
    assert_eq!(case.interrupts[0].action, Action::TlbFill { cpu: 0, region: 0, page: 0 });
}

#[test]
fn a_design_of_each_group_is_kept_and_a_missing_one_is_the_releases() {
    let mut case = Case::empty();
    case.config.designs = [Design::RestoreByType].into_iter().collect();
    normalize(&mut case);
    assert_eq!(case.config.designs, Kernel::NEWEST.designs().choose(Design::RestoreByType));
    assert!(is_normal(&case));
}

#[test]
fn anything_is_read_as_text_when_it_is_one_and_as_bytes_otherwise() {
    let text = b"kernel 6.12\ncpu 0\n A write heap[0..2]\n";
    let case = from_any(text);
    assert_eq!(case.ops, [Op { len: 2, ..Op::new(OpCode::Write, 0) }]);
    assert!(case.config.has(Defect::D12), "a text means what it says");
    for bytes in [&b""[..], b"not a case", b"kernel 6.12\ncpu 0\n A wriet heap[0]", b"\xff\xfe", b"\0\0\0\0"] {
        assert_eq!(from_any(bytes), decode(bytes));
    }
    let full = encode(&case);
    assert_eq!(from_any(&full), case);
}

#[test]
fn arbitrary_goes_through_the_codec() {
    let mut rng = Rng::new(4);
    for n in 0..200 {
        let bytes = random_bytes(&mut rng, n);
        let case = decode(&bytes);
        assert_eq!(Case::arbitrary(&mut Unstructured::new(&bytes)), Ok(case.clone()));
        assert_eq!(Case::arbitrary_take_rest(Unstructured::new(&bytes)), Ok(case.clone()));
        let readable = Readable::arbitrary_take_rest(Unstructured::new(&bytes)).expect("any bytes are a case");
        assert_eq!(text::parse(&format!("{readable:?}")).map(|d| d.case), Ok(readable.0));
    }
}

#[test]
fn random_bytes_mostly_meet_on_few_pages_and_on_one_or_two_cpus() {
    let mut rng = Rng::new(5);
    let (mut near, mut ops, mut few, mut cases) = (0, 0, 0, 0);
    for _ in 0..500 {
        let case = decode(&random_bytes(&mut rng, 200));
        ops += case.ops.len();
        near += case.ops.iter().filter(|op| op.page < 8 && op.len <= 4).count();
        few += usize::from(case.config.cpus <= 2);
        cases += 1;
    }
    assert!(near * 10 > ops * 7, "{near} of {ops}");
    assert!(few * 10 > cases * 6, "{few} of {cases}");
}
