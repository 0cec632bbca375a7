//! A slab with generational keys: stable small ids for tasks and operations, no allocation once warm.

/// Names one value of one [`Slab`]; never names another value that takes the same place later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// The key as an operation's `user_data`; never one of the values above [`Key::MAX_U64`].
    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    /// Inverse of [`to_u64`](Key::to_u64).
    pub(crate) fn from_u64(raw: u64) -> Self {
        Self { index: (raw >> 32) as u32, generation: raw as u32 }
    }

    /// Greatest number a key converts to: `u32::MAX` is not an index.
    pub(crate) const MAX_U64: u64 = ((u32::MAX as u64) << 32) - 1;
}

enum Entry<T> {
    Vacant { next: Option<u32> },
    Occupied(T),
}

struct Slot<T> {
    generation: u32,
    entry: Entry<T>,
}

/// See the module's documentation.
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Option<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new(), free: None, len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        if let Some(index) = self.free {
            let slot = &mut self.slots[index as usize];
            let Entry::Vacant { next } = slot.entry else { unreachable!("the free list holds vacant slots") };
            self.free = next;
            slot.entry = Entry::Occupied(value);
            return Key { index, generation: slot.generation };
        }
        let index = u32::try_from(self.slots.len()).ok().filter(|index| *index < u32::MAX);
        let index = index.expect("fewer than 2^32 - 1 values at a time");
        self.slots.push(Slot { generation: 0, entry: Entry::Occupied(value) });
        Key { index, generation: 0 }
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match self.slots.get_mut(key.index as usize)? {
            Slot { generation, entry: Entry::Occupied(value) } if *generation == key.generation => {
                Some(value)
            }
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let slot = &mut self.slots[key.index as usize];
        let entry = std::mem::replace(&mut slot.entry, Entry::Vacant { next: self.free });
        slot.generation = slot.generation.wrapping_add(1);
        self.free = Some(key.index);
        self.len -= 1;
        match entry {
            Entry::Occupied(value) => Some(value),
            Entry::Vacant { .. } => None,
        }
    }

    /// Takes any one value out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let index = self.slots.iter().position(|slot| matches!(slot.entry, Entry::Occupied(_)))?;
        self.remove(Key { index: index as u32, generation: self.slots[index].generation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_outlive_their_values() {
        let mut slab = Slab::new();
        let first = slab.insert('a');
        let second = slab.insert('b');
        assert_eq!(slab.remove(first), Some('a'));
        let third = slab.insert('c');
        assert_eq!(third.index, first.index);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(third), Some(&mut 'c'));
        assert_eq!(slab.get_mut(second), Some(&mut 'b'));
        assert_eq!(slab.len(), 2);
    }

    #[test]
    fn pop_empties() {
        let mut slab = Slab::new();
        let keys: Vec<_> = (0..5).map(|value| slab.insert(value)).collect();
        slab.remove(keys[2]);
        let mut rest: Vec<_> = std::iter::from_fn(|| slab.pop()).collect();
        rest.sort_unstable();
        assert_eq!(rest, [0, 1, 3, 4]);
        assert!(slab.is_empty());
    }

    #[test]
    fn numbers_round_trip() {
        let key = Key { index: 7, generation: u32::MAX };
        assert_eq!(Key::from_u64(key.to_u64()), key);
        let greatest = Key { index: u32::MAX - 1, generation: u32::MAX };
        assert_eq!(greatest.to_u64(), Key::MAX_U64);
    }
}
