//! Things by numbers that are never given twice.

use std::marker::PhantomData;

/// A number of a thing of kind `T`.
pub struct Id<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Id<T> {
    /// As one number.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From such a number.
    pub fn of_number(number: u64) -> Id<T> {
        Id { index: number as u32, generation: (number >> 32) as u32, of: PhantomData }
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Id<T> {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Id<T>) -> bool {
        self.number() == other.number()
    }
}

impl<T> Eq for Id<T> {}

impl<T> std::hash::Hash for Id<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Id<T>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Id<T>) -> std::cmp::Ordering {
        self.number().cmp(&other.number())
    }
}

impl<T> std::fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

struct Entry<T> {
    generation: u32,
    is_taken: bool,
    /// Absent while it is lent.
    thing: Option<Box<T>>,
}

/// The things. One can be lent, so that it and the others are at hand at once.
pub struct SlotMap<T> {
    places: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Default for SlotMap<T> {
    fn default() -> SlotMap<T> {
        SlotMap { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> SlotMap<T> {
    /// Keeps a thing.
    pub fn insert(&mut self, thing: T) -> Id<T> {
        let thing = Some(Box::new(thing));
        if let Some(index) = self.free.pop()
            && let Some(place) = self.places.get_mut(index as usize)
        {
            place.generation = place.generation.wrapping_add(1);
            (place.is_taken, place.thing) = (true, thing);
            return Id { index, generation: place.generation, of: PhantomData };
        }
        self.places.push(Entry { generation: 0, is_taken: true, thing });
        Id { index: (self.places.len() - 1) as u32, generation: 0, of: PhantomData }
    }

    fn place(&mut self, id: Id<T>) -> Option<&mut Entry<T>> {
        let place = self.places.get_mut(id.index as usize)?;
        (place.is_taken && place.generation == id.generation).then_some(place)
    }

    /// A thing, unless it is gone or lent.
    #[inline]
    pub fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        self.place(id)?.thing.as_deref_mut()
    }

    /// A thing, unless it is gone or lent.
    #[inline]
    pub fn get(&self, id: Id<T>) -> Option<&T> {
        let place = self.places.get(id.index as usize)?;
        place.thing.as_deref().filter(|_| place.is_taken && place.generation == id.generation)
    }

    /// Lends a thing.
    #[inline]
    pub fn lend(&mut self, id: Id<T>) -> Option<Box<T>> {
        self.place(id)?.thing.take()
    }

    /// Takes it back; a thing that was removed meanwhile is dropped.
    #[inline]
    pub fn give_back(&mut self, id: Id<T>, thing: Box<T>) {
        if let Some(place) = self.place(id) {
            place.thing = Some(thing);
        }
    }

    /// Removes a thing.
    pub fn remove(&mut self, id: Id<T>) -> Option<Box<T>> {
        let place = self.place(id)?;
        place.is_taken = false;
        let thing = place.thing.take();
        self.free.push(id.index);
        thing
    }

    /// The numbers of all.
    pub fn ids(&self) -> impl Iterator<Item = Id<T>> + '_ {
        let taken = self.places.iter().enumerate().filter(|(_, place)| place.is_taken);
        taken.map(|(index, place)| Id { index: index as u32, generation: place.generation, of: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_one_thing_only() {
        let mut slab = SlotMap::default();
        let first = slab.insert("a");
        assert_eq!(slab.remove(first).as_deref(), Some(&"a"));
        let second = slab.insert("b");
        assert_ne!(first, second);
        assert!(slab.get(first).is_none() && slab.remove(first).is_none());
        assert_eq!(slab.get(Id::of_number(second.number())), Some(&"b"));
        let lent = slab.lend(second).unwrap();
        assert!(slab.get(second).is_none());
        slab.give_back(second, lent);
        assert_eq!((slab.get(second), slab.ids().count()), (Some(&"b"), 1));
    }

    #[test]
    fn what_is_removed_while_it_is_lent_does_not_come_back() {
        let mut slab = SlotMap::default();
        let id = slab.insert(1);
        let lent = slab.lend(id).unwrap();
        slab.remove(id);
        slab.give_back(id, lent);
        assert_eq!((slab.get(id), slab.ids().count()), (None, 0));
    }
}
