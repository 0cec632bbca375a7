//! How many control connections one user has.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_uring::net::Credentials;
use parking_lot::Mutex;

use crate::access::{Access, Rights};

/// Connections of one user who is no administrator: far fewer than there are in all, so that none is in the way of others.
const MOST: usize = 32;

/// The connections of those who are no administrators, by user.
#[derive(Clone, Debug, Default)]
pub(super) struct Crowd(Arc<Mutex<HashMap<u32, usize>>>);

/// A connection among its user's; none is counted for administrators.
#[derive(Debug)]
pub(super) struct OneOf(Option<(Crowd, u32)>);

impl Crowd {
    /// Counts a connection until what is returned is dropped; none when its user has too many.
    pub(super) fn enter(&self, who: &Credentials, access: &Access) -> Option<OneOf> {
        if access.rights(who) == Rights::Administrator {
            return Some(OneOf(None));
        }
        let mut users = self.0.lock();
        let count = users.entry(who.uid).or_default();
        if *count == MOST {
            return None;
        }
        *count += 1;
        Some(OneOf(Some((self.clone(), who.uid))))
    }
}

impl Drop for OneOf {
    fn drop(&mut self) {
        let Some((crowd, uid)) = &self.0 else { return };
        let mut users = crowd.0.lock();
        if let Some(count) = users.get_mut(uid) {
            *count -= 1;
            if *count == 0 {
                users.remove(uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_the_places() {
        let (crowd, access) = (Crowd::default(), Access::default());
        access.set(Some(&[]));
        let user = |uid| Credentials { pid: 1, uid, groups: Vec::new() };
        let mut kept: Vec<_> = (0..MOST).map(|_| crowd.enter(&user(7), &access).expect("a place")).collect();
        assert!(crowd.enter(&user(7), &access).is_none());
        assert!(crowd.enter(&user(8), &access).is_some(), "others have theirs");
        assert!((0..2 * MOST).all(|_| crowd.enter(&user(0), &access).is_some()));
        kept.pop();
        kept.push(crowd.enter(&user(7), &access).expect("one was given back"));
        kept.clear();
        assert!(crowd.0.lock().is_empty());
    }
}
