//! scratch
use ptefuzz_core::arch::Arch;
use ptefuzz_core::config::*;
use ptefuzz_core::program::rng::Rng;
use ptefuzz_core::program::{Case, codec, generate, mutate, text};
use ptefuzz_core::run::Machine;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut m = Machine::new();
    if a[1] == "gen" {
        let n: u64 = a[2].parse().unwrap();
        let seed: u64 = a[3].parse().unwrap();
        let kernel = Kernel::from_name(&a[4]).unwrap();
        let defects: Vec<Defect> = a[5..].iter().map(|d| Defect::from_id(d).unwrap()).collect();
        let mut rng = Rng::new(seed);
        let mut case = Case::empty();
        let mut count = std::collections::BTreeMap::<String, (u64, Case, u64)>::new();
        let t = std::time::Instant::now();
        let mut ops = 0u64;
        let mut steps = 0u64;
        for i in 0..n {
            let mut config = Config::fixed(kernel);
            config.cpus = 1 + (i % 2) as u8;
            if i % 4 == 3 {
                config.arch = Arch::Arm64;
            }
            for d in &defects {
                config.defects = config.defects.with(*d);
            }
            generate::generate(&mut rng, &mut case, &generate::GenConfig { config, max_ops: 16, sequential: false });
            ops += case.ops.len() as u64;
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| m.run(&case)));
            let v = match r {
                Ok(v) => {
                    steps += m.steps();
                    v.id().to_string()
                }
                Err(_) => {
                    m = Machine::new();
                    "PANIC".to_string()
                }
            };
            if v != "clean" {
                let e = count.entry(v).or_insert_with(|| (0, case.clone(), i));
                e.0 += 1;
                if case.ops.len() + case.interrupts.len() < e.1.ops.len() + e.1.interrupts.len() {
                    e.1 = case.clone();
                    e.2 = i;
                }
            }
        }
        let dt = t.elapsed().as_secs_f64();
        println!("{:.0} cases/s {:.0} ops/s {:.1} steps/case", n as f64 / dt, ops as f64 / dt, steps as f64 / n as f64);
        for (k, (c, case, i)) in count {
            println!("== {k} x{c} (at {i})\n{}", text::print(&text::Document::from(case.clone())));
            if k != "PANIC" {
                println!("{}", m.run(&case));
            }
        }
    } else {
        let t = std::fs::read_to_string(&a[1]).unwrap();
        let d = text::parse(&t).unwrap();
        let (v, trace) = m.run_traced(&d.case);
        for (s, e) in &trace.events {
            println!("{s} {e:?}");
        }
        println!("{v}");
    }
    let _ = (codec::decode(b""), mutate::MutateConfig::default());
}
