//! Cases as data: ops, the total binary codec, the text form, generation and mutation.
//!
//! Text is what people write, review and keep. Bytes are what fuzzers mutate: every byte string decodes to a
//! case. Both say the same thing.

pub mod case;
pub mod codec;
pub mod family;
pub mod generate;
pub mod mutate;
pub mod op;
pub mod rng;
pub mod text;

pub use case::{Action, Case, Interrupt, Map};
pub use op::{Actor, Op, OpCode, Perm, Shape};
