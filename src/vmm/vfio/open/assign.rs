//! Assigns IOMMU groups to containers. One container takes all groups if it can; a further
//! container takes the groups that the first refuses. A container refuses a group whose IOMMU has
//! other abilities than the IOMMUs of its groups.

/// Assigns items to containers. `container` takes the first item that is left and makes an empty
/// container. `join` makes an item a member of a container. A refused item is tried with the next
/// container. Returns the containers, each with its members.
///
/// # Errors
/// The first error other than a refusal, or the first refusal by an empty container: a second empty
/// container would refuse too.
pub(super) fn assign<T, C, M, E>(
    items: Vec<T>,
    mut container: impl FnMut(&T) -> Result<C, E>,
    join: impl Fn(&C, &T) -> Result<M, E>,
    is_refusal: impl Fn(&E) -> bool,
) -> Result<Vec<(C, Vec<M>)>, E> {
    let mut assigned = Vec::new();
    let mut left = items;
    while let Some(first) = left.first() {
        let container = container(first)?;
        let mut members = Vec::new();
        let mut refused = Vec::new();
        let mut first_refusal = None;
        for item in left {
            match join(&container, &item) {
                Ok(member) => members.push(member),
                Err(e) if is_refusal(&e) => {
                    first_refusal.get_or_insert(e);
                    refused.push(item);
                }
                Err(e) => return Err(e),
            }
        }
        if let (Some(refusal), true) = (first_refusal, members.is_empty()) {
            return Err(refusal);
        }
        assigned.push((container, members));
        left = refused;
    }
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Debug, PartialEq)]
    enum Trouble {
        Refused(u32),
        Broken,
    }

    /// Containers are numbered; each takes items of the tens of the first that it is offered, and
    /// items below ten go nowhere.
    fn assigned(items: &[u32]) -> Result<Vec<(usize, Vec<u32>)>, Trouble> {
        let count = Cell::new(0);
        let container = |first: &u32| {
            count.set(count.get() + 1);
            Ok((count.get(), *first / 10))
        };
        let join = |(_, tens): &(usize, u32), item: &u32| match *item {
            99 => Err(Trouble::Broken),
            item if item < 10 || item / 10 != *tens => Err(Trouble::Refused(item)),
            item => Ok(item),
        };
        let assigned = assign(items.to_vec(), container, join, |e| *e != Trouble::Broken)?;
        let numbered = assigned
            .into_iter()
            .map(|((number, _), members)| (number, members));
        Ok(numbered.collect())
    }

    #[test]
    fn a_further_container_only_for_what_is_refused() {
        assert_eq!(assigned(&[]), Ok(vec![]));
        assert_eq!(assigned(&[11, 12]), Ok(vec![(1, vec![11, 12])]));
        assert_eq!(
            assigned(&[11, 21, 12, 31, 22]),
            Ok(vec![(1, vec![11, 12]), (2, vec![21, 22]), (3, vec![31])])
        );
    }

    #[test]
    fn what_an_empty_container_refuses_is_refused() {
        assert_eq!(assigned(&[5]), Err(Trouble::Refused(5)));
        assert_eq!(assigned(&[11, 6, 5]), Err(Trouble::Refused(6)));
        assert_eq!(assigned(&[11, 99, 5]), Err(Trouble::Broken));
    }
}
