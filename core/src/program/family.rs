//! Families of ops: what belongs together, and so is tried together.
//!
//! A case that draws on every op there is has few ops of each kind, and a defect wants several of one. So each
//! generated case uses only some families, chosen at random ("swarm testing": Groce et al., ISSTA 2012), and a fuzz
//! target can ask for one of them.

use super::op::OpCode;
use super::rng::Rng;

macro_rules! families {
    ($($name:ident = $text:literal, $doc:literal;)*) => {
        /// What an op is about.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Family { $(#[doc = $doc] $name),* }

        impl Family {
            /// Every family, in table order.
            pub const ALL: [Family; [$($text),*].len()] = [$(Family::$name),*];

            /// Name, as `ptefuzz list ops` prints it.
            pub fn name(self) -> &'static str {
                match self { $(Family::$name => $text),* }
            }
        }
    };
}

families! {
    Base = "base", "Mapping, access, protection, fork and exit: in every case.";
    Reclaim = "reclaim", "Reclaim and swapping out.";
    Migrate = "migrate", "Migration, and taking memory blocks off line.";
    Track = "track", "Soft-dirty tracking and the files of /proc.";
    Gup = "gup", "Pinning pages for somebody else.";
    Uffd = "uffd", "userfaultfd.";
    File = "file", "Files: shared and private mappings, truncation, holes, writeback.";
    Device = "device", "Devices that mirror a process.";
    Swap = "swap", "Swap devices that come, go and fail.";
    Ksm = "ksm", "Merging of equal pages.";
    Memcg = "memcg", "Memory control groups.";
    Poison = "poison", "Memory that fails, and memory that is taken out of use before it does.";
    Thp = "thp", "Huge pages and large folios.";
    Madvise = "madvise", "Advice on memory: lazy freeing, populating, guard pages.";
    Mremap = "mremap", "Mappings that move.";
    Driver = "driver", "Devices whose memory is mapped, without pages behind it.";
    Hugetlb = "hugetlb", "Hugetlb pages: their pool, private and shared mappings.";
    Mlock = "mlock", "Memory that is locked.";
}

/// A set of families.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FamilySet(u32);

const _: () = assert!(Family::ALL.len() <= 32, "a FamilySet has one bit for each row");

impl FamilySet {
    /// Only [`Family::Base`].
    pub const BASE: FamilySet = FamilySet(1 << Family::Base as u8);
    /// Every family.
    pub const ALL: FamilySet = FamilySet(u32::MAX >> (32 - Family::ALL.len()));

    /// True when `f` is in the set.
    #[inline]
    pub fn contains(self, f: Family) -> bool {
        self.0 & (1 << f as u8) != 0
    }

    /// The set and `f`.
    #[must_use]
    pub fn with(self, f: Family) -> FamilySet {
        FamilySet(self.0 | 1 << f as u8)
    }

    /// Families for one case: the base, `bias` when there is one, and of the others some: now and then all.
    pub fn swarm(rng: &mut Rng, bias: Option<Family>) -> FamilySet {
        if rng.percent(15) {
            return FamilySet::ALL;
        }
        let chosen = if rng.percent(70) {
            // What a bug needs is mostly the work of one, two or three.
            let few = 1 + rng.below(3 - u32::from(bias.is_some()));
            let jobs = [(Family::Reclaim, 45), (Family::Migrate, 30)].into_iter().filter(|(_, p)| rng.percent(*p));
            let with_jobs = jobs.fold(FamilySet::BASE, |set, (job, _)| set.with(job));
            (0..few).filter_map(|_| rng.pick(&Family::ALL)).fold(with_jobs, FamilySet::with)
        } else {
            Family::ALL.into_iter().filter(|_| rng.percent(45)).fold(FamilySet::BASE, FamilySet::with)
        };
        bias.map_or(chosen, |f| chosen.with(f))
    }

    /// Families of the ops of a case, and the base.
    pub fn of(ops: impl IntoIterator<Item = OpCode>) -> FamilySet {
        ops.into_iter().map(OpCode::family).fold(FamilySet::BASE, FamilySet::with)
    }
}

/// Sum of the weights of each family's ops.
const TOTALS: [u32; Family::ALL.len()] = {
    let (mut totals, mut i) = ([0; Family::ALL.len()], 0);
    while i < OpCode::ALL.len() {
        totals[OpCode::ALL[i].family() as usize] += OpCode::ALL[i].weight();
        i += 1;
    }
    totals
};

/// An op code of one of these families, by the weights of the op table; those of `bias` count threefold.
pub fn pick_code(rng: &mut Rng, families: FamilySet, bias: Option<Family>) -> OpCode {
    let factors = Family::ALL.map(|f| match families.contains(f) {
        true if bias == Some(f) => 3,
        chosen => u32::from(chosen),
    });
    let mut left = rng.below(TOTALS.iter().zip(factors).map(|(total, factor)| total * factor).sum());
    for code in OpCode::ALL {
        match left.checked_sub(code.weight() * factors[code.family() as usize]) {
            Some(rest) => left = rest,
            None => return code,
        }
    }
    OpCode::Read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_of_a_chosen_family_is_picked_and_no_other() {
        let mut rng = Rng::new(1);
        for family in Family::ALL {
            let families = FamilySet::BASE.with(family);
            let mut seen = [false; OpCode::ALL.len()];
            for _ in 0..20_000 {
                seen[pick_code(&mut rng, families, Some(family)) as usize] = true;
            }
            for code in OpCode::ALL {
                assert_eq!(seen[code as usize], families.contains(code.family()), "{}", code.name());
            }
        }
    }

    #[test]
    fn a_swarm_has_the_base_and_what_was_asked_for_and_differs_from_case_to_case() {
        let mut rng = Rng::new(2);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let set = FamilySet::swarm(&mut rng, Some(Family::Uffd));
            assert!(set.contains(Family::Base) && set.contains(Family::Uffd));
            seen.insert(set.0);
        }
        assert!(seen.len() > 10 && seen.contains(&FamilySet::ALL.0));
    }
}
