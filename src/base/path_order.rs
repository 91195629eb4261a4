//! The order of a walk in which full paths come sorted by their bytes.
//!
//! A directory's own path comes at its name, what is inside it at its name and a slash: between the two come its
//! siblings like `log.1` beside `log`. Tables of files are sorted that way, and whoever walks beside one must be.

/// Of the children of one directory, each with its name (or path) and whether there may be something inside:
/// their indices in order, with `true` where what is inside has its place.
#[must_use]
pub fn path_order<'n>(children: impl Iterator<Item = (&'n [u8], bool)>) -> Vec<(usize, bool)> {
    let mut order = Vec::new();
    for (i, (name, has_inside)) in children.enumerate() {
        order.push((name, i, false));
        if has_inside {
            order.push((name, i, true));
        }
    }
    let key = |&(name, _, is_inside): &(&'n [u8], usize, bool)| {
        let slash: &[u8] = if is_inside { b"/" } else { b"" };
        name.iter().chain(slash)
    };
    order.sort_by(|a, b| key(a).cmp(key(b)));
    order.into_iter().map(|(_, i, is_inside)| (i, is_inside)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_comes_between_siblings() {
        let children: [(&[u8], bool); 5] =
            [(b"log", true), (b"log-2", true), (b"log.1", false), (b"log0", false), (b"a", false)];
        let order = path_order(children.into_iter());
        let inside = |i| (i, true);
        let own = |i| (i, false);
        let expected = [own(4), own(0), own(1), inside(1), own(2), inside(0), own(3)];
        assert_eq!(order, expected);
    }
}
