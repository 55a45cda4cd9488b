//! Which container serves which device: one for all of them, and a further one only for those that
//! it refuses (devices behind IOMMUs of different abilities do not go together).

/// A space, and the items that it took with what came of them.
pub type Shared<S, T, D> = (S, Vec<(T, D)>);

/// Gives items to spaces. `attempt` tries all that are left with a fresh space; those that are refused
/// are tried with the next. Returns the spaces, each with what it took.
///
/// All items of a group are tried together, so that a group is never in two spaces.
///
/// # Errors
/// The first that is no refusal; or the first refusal of a space that took nothing, for another as
/// empty would refuse the same.
pub fn share<T, S, D, E>(
    items: Vec<T>,
    mut space: impl FnMut() -> Result<S, E>,
    attempt: impl Fn(&S, Vec<T>) -> Vec<(T, Result<D, E>)>,
    is_refusal: impl Fn(&E) -> bool,
) -> Result<Vec<Shared<S, T, D>>, E> {
    let mut shared = Vec::new();
    let mut left = items;
    while !left.is_empty() {
        let space = space()?;
        let mut taken = Vec::new();
        let mut refused = Vec::new();
        let mut why = None;
        for (item, outcome) in attempt(&space, left) {
            match outcome {
                Ok(done) => taken.push((item, done)),
                Err(e) if is_refusal(&e) => {
                    why.get_or_insert(e);
                    refused.push(item);
                }
                Err(e) => return Err(e),
            }
        }
        if let (Some(why), true) = (why, taken.is_empty()) {
            return Err(why);
        }
        shared.push((space, taken));
        left = refused;
    }
    Ok(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Trouble {
        Refused(u32),
        Broken,
    }

    /// Spaces are numbered; each takes items of the kind of the first that it is offered, and items
    /// below ten go nowhere.
    fn place(items: &[u32]) -> Result<Vec<(usize, Vec<u32>)>, Trouble> {
        let mut count = 0;
        let space = || {
            count += 1;
            Ok(count)
        };
        let attempt = |_: &usize, items: Vec<u32>| {
            let kind = items.first().map(|i| i / 10);
            let one = |item: u32| match item {
                99 => Err(Trouble::Broken),
                item if item < 10 || Some(item / 10) != kind => Err(Trouble::Refused(item)),
                _ => Ok(()),
            };
            items.into_iter().map(|item| (item, one(item))).collect()
        };
        let shared = share(items.to_vec(), space, attempt, |e| *e != Trouble::Broken)?;
        let plain = shared
            .into_iter()
            .map(|(space, taken)| (space, taken.into_iter().map(|(item, ())| item).collect()));
        Ok(plain.collect())
    }

    #[test]
    fn a_further_space_only_for_what_is_refused() {
        assert_eq!(place(&[]), Ok(vec![]));
        assert_eq!(place(&[11, 12]), Ok(vec![(1, vec![11, 12])]));
        assert_eq!(
            place(&[11, 21, 12, 31, 22]),
            Ok(vec![(1, vec![11, 12]), (2, vec![21, 22]), (3, vec![31])])
        );
    }

    #[test]
    fn what_an_empty_space_refuses_is_refused() {
        assert_eq!(place(&[5]), Err(Trouble::Refused(5)));
        assert_eq!(place(&[11, 6, 5]), Err(Trouble::Refused(6)));
        assert_eq!(place(&[11, 99, 5]), Err(Trouble::Broken));
    }
}
