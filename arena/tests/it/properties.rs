//! Random programs against a small model: what is live stays intact and apart, refusals are
//! justified, and in the end everything is one piece again.

use std::{collections::BTreeMap, ops::Range};

use arena::{AllocError, BuddyArena, Buffer, FixedArena, Frozen, Occupancy};
use bytes::{BufMut, Bytes};
use proptest::{collection, prelude::*, test_runner::Config};

use crate::support::{Arena, Figures, address_of, nz};

/// One step. Numbers choose among what is there, so that every step is possible.
#[derive(Clone, Debug)]
enum Step {
    /// Of up to `2^order` units, less some.
    Allocate {
        order: u32,
        less: usize,
    },
    Write {
        which: usize,
        amount: usize,
    },
    Truncate {
        which: usize,
        to: usize,
    },
    Shrink {
        which: usize,
    },
    Freeze {
        which: usize,
    },
    IntoFrozen {
        which: usize,
    },
    Clone {
        which: usize,
    },
    Slice {
        which: usize,
        from: usize,
        len: usize,
    },
    Split {
        which: usize,
        at: usize,
    },
    TryIntoBuffer {
        which: usize,
    },
    Drop {
        which: usize,
    },
    DropOnAnotherThread {
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let which = any::<usize>();
    let n = any::<usize>();
    prop_oneof![
        10 => (any::<u32>(), n).prop_map(|(order, less)| Allocate { order, less }),
        6 => (which, n).prop_map(|(which, amount)| Write { which, amount }),
        1 => (which, n).prop_map(|(which, to)| Truncate { which, to }),
        3 => which.prop_map(|which| Shrink { which }),
        2 => which.prop_map(|which| Freeze { which }),
        4 => which.prop_map(|which| IntoFrozen { which }),
        2 => which.prop_map(|which| Clone { which }),
        2 => (which, n, n).prop_map(|(which, from, len)| Slice { which, from, len }),
        2 => (which, n).prop_map(|(which, at)| Split { which, at }),
        3 => which.prop_map(|which| TryIntoBuffer { which }),
        8 => which.prop_map(|which| Drop { which }),
        1 => which.prop_map(|which| DropOnAnotherThread { which }),
    ]
}

/// The reference allocator: which addresses are lent, and to how many references.
#[derive(Debug, Default)]
struct Reference {
    lent: BTreeMap<usize, (usize, u32)>,
}

impl Reference {
    fn is_free(&self, span: &Range<usize>) -> bool {
        let before = self.lent.range(..span.end).next_back();
        before.is_none_or(|(&start, &(len, _))| start + len <= span.start)
    }

    fn lend(&mut self, span: Range<usize>) {
        assert!(self.is_free(&span), "{span:?} is lent already: {self:?}");
        self.lent.insert(span.start, (span.len(), 1));
    }

    fn refer(&mut self, start: usize) {
        self.lent.get_mut(&start).expect("it is lent").1 += 1;
    }

    fn return_one(&mut self, start: usize) {
        let (_, references) = self.lent.get_mut(&start).expect("it is lent");
        *references -= 1;
        if *references == 0 {
            self.lent.remove(&start);
        }
    }

    fn bytes(&self) -> usize {
        self.lent.values().map(|(len, _)| len).sum()
    }
}

/// What the random programs need to know of an arena beyond [`Arena`].
trait Subject: Arena {
    fn unit_bytes(&self) -> usize;
    fn units(&self) -> usize;
    fn occupancy(&self) -> Occupancy;

    fn allocate_at_least(&self, len: usize) -> Result<Buffer, AllocError>;

    /// The capacity of a buffer for `len` bytes, also its alignment within the arena.
    fn block_bytes(&self, len: usize) -> usize;

    /// Where the memory begins. Nothing is lent.
    fn start(&self) -> usize;

    /// Fails unless everything can be had again. Nothing is lent.
    fn assert_is_whole(&self);

    fn total_bytes(&self) -> usize {
        self.units() * self.unit_bytes()
    }
}

impl Subject for FixedArena {
    fn unit_bytes(&self) -> usize {
        self.slot_capacity()
    }

    fn units(&self) -> usize {
        self.slot_count()
    }

    fn occupancy(&self) -> Occupancy {
        self.occupancy()
    }

    fn allocate_at_least(&self, _len: usize) -> Result<Buffer, AllocError> {
        self.allocate()
    }

    fn block_bytes(&self, _len: usize) -> usize {
        self.slot_capacity()
    }

    fn start(&self) -> usize {
        let mut all: Vec<_> = (0..self.slot_count()).map(|_| self.allocate().unwrap()).collect();
        all.iter_mut().map(address_of).min().expect("there is a slot")
    }

    fn assert_is_whole(&self) {
        let all: Vec<_> = (0..self.slot_count()).map(|_| self.allocate()).collect();
        assert!(all.iter().all(Result::is_ok));
    }
}

impl Subject for BuddyArena {
    fn unit_bytes(&self) -> usize {
        self.min_block_size()
    }

    fn units(&self) -> usize {
        self.total_size() / self.min_block_size()
    }

    fn occupancy(&self) -> Occupancy {
        self.occupancy()
    }

    fn allocate_at_least(&self, len: usize) -> Result<Buffer, AllocError> {
        self.allocate(nz(len))
    }

    fn block_bytes(&self, len: usize) -> usize {
        len.next_power_of_two().max(self.min_block_size())
    }

    fn start(&self) -> usize {
        address_of(&mut self.allocate(nz(self.total_size())).unwrap())
    }

    fn assert_is_whole(&self) {
        assert_eq!(self.metrics().largest_free_block, self.total_size());
        assert!(self.allocate(nz(self.total_size())).is_ok());
    }
}

/// One reference to memory, and what must be found there.
#[derive(Debug)]
struct Held {
    item: Item,
    content: Vec<u8>,
    /// Where the lent span starts. None if it holds none.
    lease: Option<usize>,
}

#[derive(Debug)]
enum Item {
    Buffer(Buffer),
    Frozen(Frozen),
    Bytes(Bytes),
}

impl Held {
    fn bytes(&self) -> &[u8] {
        match &self.item {
            Item::Buffer(buffer) => buffer,
            Item::Frozen(frozen) => frozen,
            Item::Bytes(bytes) => bytes,
        }
    }
}

/// Writes at most this much at once, so that large blocks cost no time.
const WRITE_BYTES_MAX: usize = 3000;

/// A random program under way.
struct Run<A> {
    arena: A,
    may_spill: bool,
    start: usize,
    reference: Reference,
    held: Vec<Held>,
    expected: Figures,
    fills: u8,
}

impl<A: Subject> Run<A> {
    fn new(arena: A, may_spill: bool) -> Self {
        let start = arena.start();
        let expected = arena.figures();
        Self {
            arena,
            may_spill,
            start,
            reference: Reference::default(),
            held: Vec::new(),
            expected,
            fills: 0,
        }
    }

    fn run(mut self, steps: &[Step]) {
        for step in steps {
            self.take(step);
            self.check();
        }
        for held in std::mem::take(&mut self.held) {
            self.give_back(held.lease);
            drop(held.item);
            self.check();
        }
        assert_eq!(self.expected.allocations_ok, self.expected.frees);
        assert_eq!(self.expected.bytes_live, 0);
        self.arena.assert_is_whole();
    }

    /// The invariants that hold between any two steps.
    fn check(&mut self) {
        for held in &self.held {
            assert_eq!(held.bytes(), held.content, "somebody wrote here");
        }
        self.expected.bytes_live = self.reference.bytes();
        assert_eq!(self.arena.figures(), self.expected);
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Allocate { order, less } => self.allocate(order, less),
            Step::Write { which, amount } => self.write(which, amount),
            Step::Truncate { which, to } => self.truncate(which, to),
            Step::Shrink { which } => self.shrink(which),
            Step::Freeze { which } => self.freeze(which),
            Step::IntoFrozen { which } => self.share(which),
            Step::Clone { which } => self.clone_one(which),
            Step::Slice { which, from, len } => self.slice(which, from, len),
            Step::Split { which, at } => self.split(which, at),
            Step::TryIntoBuffer { which } => self.try_into_buffer(which),
            Step::Drop { which } => {
                if let Some(held) = self.pick(which, |_| true) {
                    self.give_back(held.lease);
                    drop(held.item);
                }
            }
            Step::DropOnAnotherThread { which } => {
                if let Some(held) = self.pick(which, |_| true) {
                    self.give_back(held.lease);
                    std::thread::scope(|scope| {
                        scope.spawn(|| drop(held.item));
                    });
                }
            }
        }
    }

    fn allocate(&mut self, order: u32, less: usize) {
        let units = self.arena.units().next_power_of_two();
        let most = self.arena.unit_bytes() << (order % (units.ilog2() + 1));
        let len = (most - less % most.div_ceil(2)).min(self.arena.total_bytes());
        let size = self.arena.block_bytes(len);
        match self.arena.allocate_at_least(len) {
            Ok(mut buffer) => {
                let at = address_of(&mut buffer);
                assert_eq!(buffer.capacity(), size);
                assert!(at >= self.start && (at - self.start).is_multiple_of(size));
                assert!(at + size <= self.start + self.arena.total_bytes());
                self.reference.lend(at..at + size);
                self.expected.allocations_ok += 1;
                self.hold(Item::Buffer(buffer), Vec::new(), Some(at));
            }
            Err(error) => {
                assert_eq!(error, AllocError::ArenaFull);
                self.expected.allocations_failed += 1;
                self.assert_refusal_is_justified(size);
            }
        }
    }

    /// No aligned run of `size` bytes is free, as the model has it and as the arena says.
    fn assert_refusal_is_justified(&self, size: usize) {
        let occupancy = self.arena.occupancy();
        let units = size / occupancy.unit_bytes();
        for first in (0..occupancy.units()).step_by(units) {
            let from = self.start + first * occupancy.unit_bytes();
            assert!(!self.reference.is_free(&(from..from + size)), "{size} bytes are free");
            let mut run = first..first + units;
            assert!(!run.all(|unit| occupancy.is_free(unit)), "unit {first} is shown as free");
        }
    }

    fn write(&mut self, which: usize, amount: usize) {
        let Some(mut held) = self.pick(which, |item| matches!(item, Item::Buffer(_))) else {
            return;
        };
        let Item::Buffer(buffer) = &mut held.item else { unreachable!("a buffer was picked") };
        self.fills = self.fills.wrapping_add(1);
        let remaining = buffer.capacity() - buffer.len();
        let n = amount % (remaining.min(WRITE_BYTES_MAX) + remaining.min(WRITE_BYTES_MAX) / 8 + 2);
        let data = vec![self.fills; n];
        let must_spill = n > remaining && !buffer.is_spilled();
        if must_spill && !self.may_spill {
            let full = buffer.try_put_slice(&data).unwrap_err();
            assert_eq!((full.remaining, full.requested), (remaining, n));
        } else {
            match amount % 3 {
                0 => buffer.put_slice(&data),
                1 => buffer.put_bytes(self.fills, n),
                _ => buffer.try_put_slice(&data).expect("it fits or spills"),
            }
            held.content.extend_from_slice(&data);
            if must_spill {
                assert!(buffer.is_spilled());
                self.expected.spills += 1;
                self.give_back(held.lease.take());
            }
        }
        self.held.push(held);
    }

    fn truncate(&mut self, which: usize, to: usize) {
        let Some(mut held) = self.pick(which, |item| matches!(item, Item::Buffer(_))) else {
            return;
        };
        let to = to % (held.content.len() + 2);
        if let Item::Buffer(buffer) = &mut held.item {
            buffer.truncate(to);
        }
        held.content.truncate(to);
        self.held.push(held);
    }

    fn shrink(&mut self, which: usize) {
        let Some(mut held) = self.pick(which, |item| matches!(item, Item::Buffer(_))) else {
            return;
        };
        if let (Item::Buffer(buffer), Some(start)) = (&mut held.item, held.lease) {
            buffer.shrink_to_fit();
            let kept = buffer.len().max(1).next_multiple_of(self.arena.unit_bytes());
            assert_eq!(buffer.capacity(), kept);
            self.reference.lent.get_mut(&start).expect("it is lent").0 = kept;
        }
        self.held.push(held);
    }

    fn freeze(&mut self, which: usize) {
        let Some(held) = self.pick(which, |item| !matches!(item, Item::Bytes(_))) else {
            return;
        };
        let bytes = match held.item {
            Item::Buffer(buffer) => {
                self.expected.frozen += u64::from(!buffer.is_spilled());
                buffer.freeze()
            }
            Item::Frozen(frozen) => frozen.into_bytes(),
            Item::Bytes(bytes) => bytes,
        };
        self.hold(Item::Bytes(bytes), held.content, held.lease);
    }

    fn share(&mut self, which: usize) {
        let Some(held) = self.pick(which, |item| matches!(item, Item::Buffer(_))) else {
            return;
        };
        if let Item::Buffer(buffer) = held.item {
            let on_heap = buffer.is_spilled();
            self.expected.frozen += u64::from(!on_heap);
            let frozen = buffer.into_frozen();
            assert_eq!(frozen.is_spilled(), on_heap);
            self.hold(Item::Frozen(frozen), held.content, held.lease);
        }
    }

    fn clone_one(&mut self, which: usize) {
        let Some(held) = self.pick(which, |item| !matches!(item, Item::Buffer(_))) else {
            return;
        };
        let clone = match &held.item {
            Item::Frozen(frozen) => Item::Frozen(frozen.clone()),
            Item::Bytes(bytes) => Item::Bytes(bytes.clone()),
            Item::Buffer(_) => unreachable!("no buffer was picked"),
        };
        self.refer(held.lease);
        self.hold(clone, held.content.clone(), held.lease);
        self.held.push(held);
    }

    fn slice(&mut self, which: usize, from: usize, len: usize) {
        let Some(held) = self.pick(which, |item| !matches!(item, Item::Buffer(_))) else {
            return;
        };
        let from = from % (held.content.len() + 1);
        let to = from + len % (held.content.len() - from + 1);
        let slice = match &held.item {
            Item::Frozen(frozen) => Item::Frozen(frozen.slice(from..to)),
            Item::Bytes(bytes) => Item::Bytes(bytes.slice(from..to)),
            Item::Buffer(_) => unreachable!("no buffer was picked"),
        };
        // An empty slice holds nothing.
        let lease = held.lease.filter(|_| from < to);
        self.refer(lease);
        self.hold(slice, held.content[from..to].to_vec(), lease);
        self.held.push(held);
    }

    fn split(&mut self, which: usize, at: usize) {
        let Some(mut back) = self.pick(which, |item| matches!(item, Item::Frozen(_))) else {
            return;
        };
        let Item::Frozen(rest) = &mut back.item else { unreachable!("frozen bytes were picked") };
        let at = at % (back.content.len() + 1);
        let front = rest.split_to(at);
        let content: Vec<_> = back.content.drain(..at).collect();
        // The memory stays with what is not empty.
        let lease = if content.is_empty() {
            None
        } else if back.content.is_empty() {
            back.lease.take()
        } else {
            self.refer(back.lease);
            back.lease
        };
        self.hold(Item::Frozen(front), content, lease);
        self.held.push(back);
    }

    fn try_into_buffer(&mut self, which: usize) {
        let is_leased = |held: &Held| held.lease.is_some();
        let candidates: Vec<_> = (0..self.held.len())
            .filter(|&index| matches!(self.held[index].item, Item::Frozen(_)))
            .filter(|&index| is_leased(&self.held[index]))
            .collect();
        if candidates.is_empty() {
            return;
        }
        let held = self.held.swap_remove(candidates[which % candidates.len()]);
        let (Item::Frozen(frozen), Some(start)) = (held.item, held.lease) else {
            unreachable!("frozen bytes in the arena were picked")
        };
        let (len, references) = self.reference.lent[&start];
        let item = match frozen.try_into_buffer() {
            Ok(buffer) => {
                assert_eq!(references, 1, "it is shared");
                assert_eq!(buffer.capacity(), len, "the whole lease is there");
                Item::Buffer(buffer)
            }
            Err(frozen) => {
                assert!(references > 1, "it is not shared");
                Item::Frozen(frozen)
            }
        };
        self.hold(item, held.content, Some(start));
    }

    fn pick(&mut self, which: usize, is_meant: impl Fn(&Item) -> bool) -> Option<Held> {
        let candidates: Vec<_> =
            (0..self.held.len()).filter(|&index| is_meant(&self.held[index].item)).collect();
        let index = *candidates.get(which.checked_rem(candidates.len())?)?;
        Some(self.held.swap_remove(index))
    }

    fn hold(&mut self, item: Item, content: Vec<u8>, lease: Option<usize>) {
        self.held.push(Held { item, content, lease });
    }

    fn refer(&mut self, lease: Option<usize>) {
        if let Some(start) = lease {
            self.reference.refer(start);
        }
    }

    fn give_back(&mut self, lease: Option<usize>) {
        if let Some(start) = lease {
            let before = self.reference.lent.len();
            self.reference.return_one(start);
            self.expected.frees += u64::from(self.reference.lent.len() < before);
        }
    }
}

fn config() -> Config {
    Config {
        cases: if cfg!(miri) { 2 } else { 32 },
        // The steps that fail are printed; nothing is written into the tree.
        failure_persistence: None,
        ..Config::default()
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    collection::vec(step(), 1..if cfg!(miri) { 30 } else { 250 })
}

fn slots(count: usize, bytes: usize, alignment: usize, may_spill: bool) -> FixedArena {
    let builder = FixedArena::builder(nz(count), nz(bytes)).alignment(alignment);
    if may_spill { builder.auto_spill() } else { builder }.build().unwrap()
}

fn blocks(max_order: u32, min: usize, may_spill: bool) -> BuddyArena {
    let builder = BuddyArena::builder(nz(min << max_order), nz(min));
    if may_spill { builder.auto_spill() } else { builder }.build().unwrap()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn one_slot_behaves_as_the_model(steps in steps(), may_spill: bool) {
        Run::new(slots(1, 32, 1, may_spill), may_spill).run(&steps);
    }

    #[test]
    fn a_few_slots_behave_as_the_model(steps in steps(), may_spill: bool) {
        Run::new(slots(5, 100, 1, may_spill), may_spill).run(&steps);
    }

    #[test]
    fn slots_around_a_word_behave_as_the_model(
        steps in steps(), may_spill: bool, count in 63..=66usize,
    ) {
        Run::new(slots(count, 20, 8, may_spill), may_spill).run(&steps);
    }

    #[test]
    fn one_block_behaves_as_the_model(steps in steps(), may_spill: bool) {
        Run::new(blocks(0, 64, may_spill), may_spill).run(&steps);
    }

    #[test]
    fn blocks_of_one_word_behave_as_the_model(
        steps in steps(), may_spill: bool, max_order in 1..=6u32,
    ) {
        Run::new(blocks(max_order, 16, may_spill), may_spill).run(&steps);
    }

    #[test]
    fn blocks_of_two_levels_behave_as_the_model(
        steps in steps(), may_spill: bool, max_order in 7..=12u32,
    ) {
        Run::new(blocks(max_order, 16, may_spill), may_spill).run(&steps);
    }

    #[test]
    fn blocks_of_three_levels_behave_as_the_model(
        steps in steps(), may_spill: bool, max_order in 13..=15u32,
    ) {
        Run::new(blocks(max_order, 16, may_spill), may_spill).run(&steps);
    }

    #[test]
    fn large_blocks_of_four_levels_behave_as_the_model(steps in steps()) {
        Run::new(blocks(19, 1, false), false).run(&steps);
    }
}
