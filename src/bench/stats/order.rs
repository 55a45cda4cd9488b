//! The order of the turns in a round.

/// The subjects of a round in the order of their turns. Every second round has the opposite order.
/// A machine that grows slower or faster from turn to turn then favours each subject as often as
/// the others.
pub fn turns(round: usize, subjects: usize) -> Vec<usize> {
    let forward = 0..subjects;
    match round % 2 {
        0 => forward.collect(),
        _ => forward.rev().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rounds_favour_nobody() {
        assert_eq!(turns(0, 3), [0, 1, 2]);
        assert_eq!(turns(1, 3), [2, 1, 0]);
        let mut moments = [0; 3];
        for round in 0..2 {
            for (index, subject) in turns(round, 3).into_iter().enumerate() {
                moments[subject] += 3 * round + index;
            }
        }
        assert_eq!(moments, [5, 5, 5]);
    }
}
