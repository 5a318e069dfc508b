//! Members by the hash of their name, in the buckets of the digest: one list serves looking up and comparing.

use super::Slot;
use crate::wire::BUCKETS;

/// Eight bytes a member. *Cost*: finding O(log n) and about one comparison of names; adding moves n / 256 entries.
#[derive(Debug)]
pub(super) struct Index {
    /// By the 32 bits of the hash behind those that name the bucket.
    buckets: Box<[Vec<(u32, Slot)>; BUCKETS]>,
}

impl Default for Index {
    fn default() -> Self {
        Self { buckets: Box::new(std::array::from_fn(|_| Vec::new())) }
    }
}

impl Index {
    pub(super) fn insert(&mut self, key: u64, slot: Slot) {
        let (bucket, part) = split(key);
        let list = &mut self.buckets[bucket];
        let at = list.partition_point(|entry| *entry < (part, slot));
        make_room(list);
        list.insert(at, (part, slot));
    }

    pub(super) fn remove(&mut self, key: u64, slot: Slot) {
        let (bucket, part) = split(key);
        if let Ok(at) = self.buckets[bucket].binary_search(&(part, slot)) {
            self.buckets[bucket].remove(at);
        }
    }

    /// Those that may have this hash; two names may share it.
    pub(super) fn with_key(&self, key: u64) -> impl Iterator<Item = Slot> {
        let (bucket, part) = split(key);
        let list = &self.buckets[bucket];
        let first = list.partition_point(|entry| entry.0 < part);
        list[first..].iter().take_while(move |entry| entry.0 == part).map(|entry| entry.1)
    }

    pub(super) fn in_bucket(&self, bucket: usize) -> impl Iterator<Item = Slot> {
        self.buckets[bucket].iter().map(|entry| entry.1)
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let lists = self.buckets.iter().map(|list| list.capacity() * size_of::<(u32, Slot)>());
        size_of_val(&*self.buckets) + lists.sum::<usize>()
    }
}

fn split(key: u64) -> (usize, u32) {
    ((key >> 56) as usize, (key >> 24) as u32)
}

/// Room for one more, growing by an eighth: what is reserved in vain is memory in every member.
pub(super) fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 8).max(4));
    }
}
