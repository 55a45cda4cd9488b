//! The quantities of a part along an axis, and their slopes.

use crate::figures::signed;
use crate::results::Results;
use crate::stats::slope;

/// The medians of one quantity of one subject along an axis.
#[derive(Clone, Debug)]
pub struct Line {
    /// The work and the quantity.
    pub title: String,
    /// The subject.
    pub subject: String,
    /// The name of the axis, such as "vCPUs".
    pub axis: String,
    /// The unit of the quantity.
    pub unit: String,
    /// Pairs of a value on the axis and the median.
    pub points: Vec<(f64, f64)>,
}

/// All lines of a part.
pub fn lines(results: &Results, part: u8) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for measure in results
        .measures
        .iter()
        .filter(|measure| measure.part == part)
    {
        let (Some(at), Some(summary)) = (&measure.at, measure.summary()) else {
            continue;
        };
        let line = Line {
            title: format!("{}: {}", measure.work, measure.quantity),
            subject: measure.subject.clone(),
            axis: at.axis.clone(),
            unit: measure.unit.clone(),
            points: vec![(at.value, summary.median)],
        };
        let known = lines.iter_mut().find(|known| {
            (&known.title, &known.subject, &known.axis) == (&line.title, &line.subject, &line.axis)
        });
        match known {
            Some(known) => known.points.extend(line.points),
            None => lines.push(line),
        }
    }
    lines
}

/// The slope of each quantity: its title, and the slope of each subject as text. The text is empty
/// if a subject has no slope.
pub fn slopes(results: &Results, part: u8) -> Vec<(String, Vec<String>)> {
    let all = lines(results, part);
    let mut known: Vec<(&str, &str)> = Vec::new();
    for line in &all {
        if line.points.len() > 1 && !known.contains(&(&line.title, &line.axis)) {
            known.push((&line.title, &line.axis));
        }
    }
    known
        .into_iter()
        .map(|(title, axis)| {
            let of = |subject: &&str| {
                let line = all.iter().find(|line| {
                    (
                        line.title.as_str(),
                        line.axis.as_str(),
                        line.subject.as_str(),
                    ) == (title, axis, *subject)
                });
                line.and_then(|line| Some((slope(&line.points)?, line)))
                    .map_or(String::new(), |(by, line)| {
                        format!("{} {}", signed(by), line.unit)
                    })
            };
            (
                format!("{title}, {axis}"),
                results.subjects(part).iter().map(of).collect(),
            )
        })
        .collect()
}
