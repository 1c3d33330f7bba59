use super::*;
use crate::program::case::Action;
use crate::program::codec::is_normal;
use crate::sched::Site;

fn generated(seed: u64, cfg: &GenConfig) -> Case {
    let mut case = Case::empty();
    generate(&mut Rng::new(seed), &mut case, cfg);
    case
}

#[test]
fn the_same_seed_gives_the_same_case() {
    let cfg = GenConfig::default();
    for seed in 0..200 {
        assert_eq!(generated(seed, &cfg), generated(seed, &cfg));
    }
    assert_ne!(generated(1, &cfg), generated(2, &cfg));
}

#[test]
fn generated_cases_are_normalised_and_within_their_limits() {
    for seed in 0..2000 {
        let max_ops = 1 + seed as usize % 80;
        let cfg = GenConfig { max_ops, ..GenConfig::default() };
        let case = generated(seed, &cfg);
        assert!(is_normal(&case), "seed {seed}");
        assert!((1..=max_ops.min(MAX_FUZZ_OPS)).contains(&case.ops.len()));
        assert!(case.interrupts.len() <= MAX_FUZZ_INTERRUPTS);
        assert_eq!(case.config, cfg.config);
    }
}

#[test]
fn a_sequential_case_has_one_cpu_and_no_interruptions() {
    let cfg = GenConfig { sequential: true, ..GenConfig::default() };
    for seed in 0..500 {
        let case = generated(seed, &cfg);
        assert_eq!(case.config.cpus, 1);
        assert!(case.interrupts.is_empty() && case.ops.iter().all(|op| op.cpu == 0));
    }
}

#[test]
fn every_op_every_action_and_every_site_is_generated() {
    let cfg = GenConfig::default();
    let (mut codes, mut sites, mut actions) = ([0; OpCode::ALL.len()], [0; Site::ALL.len()], [0; 4]);
    for seed in 0..4000 {
        let case = generated(seed, &cfg);
        case.ops.iter().for_each(|op| codes[op.code as usize] += 1);
        for i in &case.interrupts {
            sites[i.site as usize] += 1;
            actions[match i.action {
                Action::Switch { .. } => 0,
                Action::TlbFill { .. } => 1,
                Action::TlbEvict { .. } => 2,
                Action::Device { .. } => 3,
            }] += 1;
        }
    }
    assert!(codes.iter().all(|n| *n > 0), "{codes:?}");
    assert!(sites.iter().all(|n| *n > 0), "{sites:?}");
    assert!(actions.iter().all(|n| *n > 0), "{actions:?}");
    assert!(codes[OpCode::Write as usize] > codes[OpCode::Exit as usize]);
}

#[test]
fn most_ops_with_pages_name_the_page_of_the_one_before() {
    let cfg = GenConfig::default();
    let (mut same, mut all) = (0, 0);
    for seed in 0..1000 {
        let ops = generated(seed, &cfg).ops;
        let paged: Vec<&Op> = ops.iter().filter(|op| op.len > 0).collect();
        all += paged.len().saturating_sub(1);
        same += paged.windows(2).filter(|w| w[0].page == w[1].page && w[0].region == w[1].region).count();
    }
    assert!(same * 2 > all, "{same} of {all}");
}
