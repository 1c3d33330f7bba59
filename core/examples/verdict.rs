//! scratch
use ptefuzz_core::program::text;
use ptefuzz_core::run::Machine;
fn main() {
    let mut m = Machine::new();
    for a in std::env::args().skip(1) {
        let d = text::parse(&std::fs::read_to_string(&a).unwrap()).unwrap();
        println!("{a}: {} (expect {:?})", m.run(&d.case), d.expect.map(|e| e.name().to_string()));
    }
}
