//! A map whose keys are numbers that are never given twice.
//!
//! A value is either in the map or gone. It can't be taken out for a while, so a look-up that
//! finds nothing always means that the value was removed.

use std::marker::PhantomData;

/// The number of a value; `K` tells numbers of different kinds apart.
pub struct Id<K> {
    index: u32,
    generation: u32,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    fn new(index: u32, generation: u32) -> Id<K> {
        Id { index, generation, kind: PhantomData }
    }

    /// The same as one integer, for a host that hands numbers through C.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Reads what [`Id::number`] returned.
    pub fn of_number(number: u64) -> Id<K> {
        Id::new(number as u32, (number >> 32) as u32)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Id<K> {
        *self
    }
}

impl<K> Copy for Id<K> {}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Id<K>) -> bool {
        self.number() == other.number()
    }
}

impl<K> Eq for Id<K> {}

impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Id<K>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Id<K>) -> std::cmp::Ordering {
        self.number().cmp(&other.number())
    }
}

impl<K> std::fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

struct Slot<T> {
    /// How often the slot has been given to another value.
    generation: u32,
    value: Option<Box<T>>,
}

/// Values by their numbers.
pub struct SlotMap<K, T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    kind: PhantomData<fn() -> K>,
}

impl<K, T> Default for SlotMap<K, T> {
    fn default() -> SlotMap<K, T> {
        SlotMap { slots: Vec::new(), free: Vec::new(), kind: PhantomData }
    }
}

impl<K, T> SlotMap<K, T> {
    /// Adds the value that `make` returns for its number.
    pub fn insert_with(&mut self, make: impl FnOnce(Id<K>) -> T) -> Id<K> {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.generation = slot.generation.wrapping_add(1);
            let id = Id::new(index, slot.generation);
            slot.value = Some(Box::new(make(id)));
            return id;
        }
        let id = Id::new(self.slots.len() as u32, 0);
        self.slots.push(Slot { generation: 0, value: Some(Box::new(make(id))) });
        id
    }

    /// Adds a value.
    pub fn insert(&mut self, value: T) -> Id<K> {
        self.insert_with(|_| value)
    }

    /// Returns the value, or `None` if it was removed.
    #[inline]
    pub fn get(&self, id: Id<K>) -> Option<&T> {
        let slot = self.slots.get(id.index as usize)?;
        if slot.generation == id.generation { slot.value.as_deref() } else { None }
    }

    /// Returns the value, or `None` if it was removed.
    #[inline]
    pub fn get_mut(&mut self, id: Id<K>) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.value.as_deref_mut() } else { None }
    }

    /// Removes and returns the value.
    pub fn remove(&mut self, id: Id<K>) -> Option<Box<T>> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let value = slot.value.take()?;
        self.free.push(id.index);
        Some(value)
    }

    /// Visits all values with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Id<K>, &T)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(index, slot)| Some((Id::new(index as u32, slot.generation), slot.value.as_deref()?)))
    }

    /// Visits all values with their numbers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Id<K>, &mut T)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(index, slot)| Some((Id::new(index as u32, slot.generation), slot.value.as_deref_mut()?)))
    }

    /// Visits the values among the `count` slots from `first`, with their numbers.
    pub fn part(&self, first: usize, count: usize) -> impl Iterator<Item = (Id<K>, &T)> {
        let slots = self.slots.iter().enumerate().skip(first).take(count);
        slots.filter_map(|(index, slot)| Some((Id::new(index as u32, slot.generation), slot.value.as_deref()?)))
    }

    /// The number of slots, of which some may be free.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Returns the numbers of all values, so that the map can change while they are gone through.
    pub fn ids(&self) -> Vec<Id<K>> {
        self.iter().map(|(id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    enum Tag {}

    #[test]
    fn a_number_names_one_value_only() {
        let mut map: SlotMap<Tag, &str> = SlotMap::default();
        let first = map.insert("a");
        assert_eq!(map.remove(first).as_deref(), Some(&"a"));
        let second = map.insert("b");
        assert_ne!(first, second);
        assert!(map.get(first).is_none() && map.get_mut(first).is_none() && map.remove(first).is_none());
        assert_eq!(map.get(Id::of_number(second.number())), Some(&"b"));
        assert_eq!(map.iter().map(|(id, value)| (id, *value)).collect::<Vec<_>>(), [(second, "b")]);
        assert_eq!(map.ids(), [second]);
    }

    #[test]
    fn a_value_can_know_its_number() {
        let mut map: SlotMap<Tag, u64> = SlotMap::default();
        for _ in 0..3 {
            let id = map.insert_with(Id::number);
            assert_eq!(map.get(id), Some(&id.number()));
            map.remove(id);
        }
    }
}
