use super::*;
use crate::program::codec::{decode, encode_raw, is_normal};
use crate::program::generate::{GenConfig, generate};

fn generated(seed: u64) -> Case {
    let mut case = Case::empty();
    generate(&mut Rng::new(seed), &mut case, &GenConfig::default());
    case
}

#[test]
fn a_mutated_case_is_normalised_and_stays_within_the_limits() {
    let mut rng = Rng::new(7);
    let mut case = generated(7);
    for i in 0..20_000 {
        mutate(&mut case, &mut rng, i % 5 == 4);
        assert!(is_normal(&case), "step {i}: {case:?}");
        assert!(case.ops.len() <= MAX_FUZZ_OPS && case.interrupts.len() <= MAX_FUZZ_INTERRUPTS);
        assert!(case.config.defects.is_empty());
    }
}

#[test]
fn mutation_is_deterministic_and_nearly_always_changes_something() {
    let mut changed = 0;
    for seed in 0..1000 {
        let before = generated(seed);
        let [mut a, mut b] = [before.clone(), before.clone()];
        mutate(&mut a, &mut Rng::new(seed), false);
        mutate(&mut b, &mut Rng::new(seed), false);
        assert_eq!(a, b);
        changed += u32::from(a != before);
    }
    assert!(changed > 800, "{changed} of 1000");
}

#[test]
fn shrinking_never_adds_and_ends_with_nothing_left() {
    let size = |c: &Case| {
        let operands: u32 = c.ops.iter().map(|o| 1 + o.page + o.len + u32::from(o.cpu) + u32::from(o.region)).sum();
        let counts: u32 = c.interrupts.iter().map(|i| u32::from(i.nth)).sum();
        operands + counts + c.maps.len() as u32 + u32::from(c.config.cpus)
    };
    for seed in 0..50 {
        let (mut case, mut rng) = (generated(seed), Rng::new(seed));
        for _ in 0..3000 {
            let before = case.clone();
            mutate(&mut case, &mut rng, true);
            assert!(size(&case) <= size(&before), "{before:?} -> {case:?}");
        }
        assert!(case.ops.is_empty() && case.interrupts.is_empty() && case.maps.is_empty());
        assert_eq!(case.config.cpus, 1);
    }
}

#[test]
fn a_pinned_machine_is_never_changed() {
    let pin = Config::of(Kernel::V6_12);
    let mut mutator = CaseMutator::new(MutateConfig { pin: Some(pin), ..MutateConfig::default() });
    let mut case = generated(3);
    for seed in 0..2000 {
        let mut session = Session::new().seed(seed);
        session.mutate_with(&mut mutator, &mut case).expect("there is always something to change");
        assert_eq!(case.config, pin);
        assert!(is_normal(&case));
    }
}

#[test]
fn a_sequential_mutator_gives_one_cpu_and_no_interruptions() {
    let mut mutator = CaseMutator::new(MutateConfig { sequential: true, ..MutateConfig::default() });
    let mut case = generated(5);
    for seed in 0..2000 {
        let mut session = Session::new().seed(seed);
        session.mutate_with(&mut mutator, &mut case).expect("there is always something to change");
        assert!(case.config.cpus == 1 && case.interrupts.is_empty());
    }
}

#[test]
fn every_change_leaves_a_case_that_normalises_to_itself_once_normalised() {
    let cfg = MutateConfig::default();
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        for (change, shrink) in Mutation::ALL.into_iter().flat_map(|c| [(c, false), (c, true)]) {
            let case = generated(seed);
            for place in 0..change.places(&case, &cfg, shrink) {
                let mut mutant = case.clone();
                change.apply(&mut mutant, place as usize, &mut rng, &cfg);
                normalize(&mut mutant);
                assert!(is_normal(&mutant), "{change:?}");
            }
        }
    }
}

#[test]
fn an_empty_case_can_be_mutated() {
    for seed in 0..500 {
        let mut case = Case::empty();
        mutate(&mut case, &mut Rng::new(seed), false);
        mutate(&mut case, &mut Rng::new(seed), true);
        assert!(is_normal(&case));
    }
}

#[test]
fn bytes_of_any_kind_and_size_become_raw_cases_that_fit() {
    let mut rng = Rng::new(11);
    for seed in 0..3000u32 {
        let size = rng.index(500);
        let max_size = rng.index(500);
        let mut data: Vec<u8> = (0..size.max(max_size)).map(|_| rng.next_u64() as u8).collect();
        let mut again = data.clone();
        let n = mutate_bytes(&mut data, size, max_size, seed);
        assert!(n <= max_size);
        assert_eq!(n, mutate_bytes(&mut again, size, max_size, seed));
        assert_eq!(data, again);
        let case = decode(&data[..n]);
        assert_eq!(decode(&encode_raw(&case)), case);
    }
}

#[test]
fn a_text_seed_is_mutated_as_the_case_that_it_is() {
    let text = "kernel 6.15\nprocess A\n heap = mmap anon private rw 4\ncpu 0\n A write heap[0]\n A fork B\n";
    let mut data = vec![0; 4096];
    data[..text.len()].copy_from_slice(text.as_bytes());
    let mut kept = 0;
    for seed in 0..100 {
        let mut copy = data.clone();
        let n = mutate_bytes(&mut copy, text.len(), 4096, seed);
        kept += u32::from(decode(&copy[..n]).config.kernel == Kernel::V6_15);
    }
    assert!(kept > 80, "{kept} of 100");
}

#[test]
fn a_crossover_takes_ops_of_both_and_the_machine_of_the_first() {
    let mut both = 0;
    for seed in 0..500 {
        let (mut a, b) = (generated(seed), generated(seed + 1000));
        a.config.arch = Arch::Arm64;
        let c = crossover(&a, &b, &mut Rng::new(seed));
        assert!(is_normal(&c) && c.config == a.config && c.ops.len() <= MAX_FUZZ_OPS);
        assert_eq!(c, crossover(&a, &b, &mut Rng::new(seed)));
        both += u32::from(c.ops.first() == a.ops.first() && !c.ops.is_empty() && c.ops.last() == b.ops.last());
        let mut out = [0; 64];
        assert!(crossover_bytes(&encode_raw(&a), &encode_raw(&b), &mut out, seed as u32) <= 64);
    }
    assert!(both > 100, "{both} of 500");
}

#[test]
fn a_generated_input_owes_nothing_to_the_bytes_before_and_fits_into_the_room() {
    let mut mutator = CaseMutator::default();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let (mut a, mut b) = ([0u8; 512], [0xa5u8; 512]);
        let n = mutator.generate_bytes(&mut a, 512, seed);
        assert_eq!(n, mutator.generate_bytes(&mut b, 512, seed));
        assert_eq!(a[..n], b[..n]);
        let case = decode(&a[..n]);
        assert!(is_normal(&case) && !case.ops.is_empty() && case.config.defects.is_empty());
        assert!(mutator.generate_bytes(&mut a, 64, seed) <= 64);
        seen.insert(b[..n].to_vec());
    }
    assert!(seen.len() > 290, "{} of 300", seen.len());
}
