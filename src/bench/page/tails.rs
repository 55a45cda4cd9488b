//! A plot of how many reads took longer than a time, a line for each subject. Both axes are
//! logarithmic, so that the slowest reads can be seen.

use crate::page::axis::Axis;
use crate::page::escape::escape;
use crate::report::add::add;
use crate::stats::latency::{BEYOND, Latencies};

/// Colours that people with any kind of colour vision tell apart (Okabe and Ito), and strokes for
/// those who print without colours.
const STROKES: [(&str, &str); 8] = [
    ("#0072b2", ""),
    ("#d55e00", "7 3"),
    ("#009e73", "2 3"),
    ("#cc79a7", "9 3 2 3"),
    ("#b8860b", "4 2"),
    ("#56b4e9", "12 4"),
    ("#444444", "1 2"),
    ("#7f3fbf", "9 2 2 2 2 2"),
];

/// The height of the plot.
const HEIGHT: f64 = 240.0;

/// The plot, with a legend that is wrapped as text is. An empty text if there are too few reads.
pub(super) fn plot(subjects: &[(&str, Latencies)]) -> String {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = subjects
        .iter()
        .map(|(name, times)| (*name, line(times)))
        .collect();
    let points = || lines.iter().flat_map(|(_, points)| points.iter());
    let (Some(time), Some(part)) = (
        Axis::of(points().map(|point| point.0)),
        Axis::of(points().map(|point| point.1)),
    ) else {
        return String::new();
    };
    let mut svg = format!(
        "<svg class=\"tails\" height=\"{}\" role=\"img\" \
        aria-label=\"Share of operations that took longer than a time\">",
        HEIGHT + 40.0
    );
    let down = |value: f64| HEIGHT * (100.0 - part.percent(value)) / 100.0;
    for tick in part.ticks() {
        let y = down(tick.value);
        add(
            &mut svg,
            format_args!(
                "<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"2\" y=\"{:.1}\">{}</text>",
                (y - 3.0).max(11.0),
                percent(tick.value)
            ),
        );
    }
    for tick in time.ticks() {
        let x = time.percent(tick.value);
        add(
            &mut svg,
            format_args!(
                "<line class=\"grid\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"{HEIGHT}\"/>\
                 <text x=\"{x:.2}%\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT + 15.0,
                escape(&tick.label)
            ),
        );
    }
    add(
        &mut svg,
        format_args!(
            "<text x=\"50%\" y=\"{}\" text-anchor=\"middle\">time of an operation, µs</text>\
             <svg width=\"100%\" height=\"{HEIGHT}\" viewBox=\"0 0 1000 1000\" \
             preserveAspectRatio=\"none\">",
            HEIGHT + 32.0
        ),
    );
    let mut legend = String::from("<ul class=\"legend\">\n");
    for (index, (name, points)) in lines.iter().enumerate() {
        let (colour, dashes) = STROKES[index % STROKES.len()];
        let stroke = format!("stroke=\"{colour}\" stroke-dasharray=\"{dashes}\"");
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| {
                let y = 1000.0 - part.percent(*y) * 10.0;
                format!("{:.1},{y:.1}", time.percent(*x) * 10.0)
            })
            .collect();
        add(
            &mut svg,
            format_args!("<polyline {stroke} points=\"{}\"/>", points.join(" ")),
        );
        add(
            &mut legend,
            format_args!(
                "<li><svg width=\"36\" height=\"12\"><line {stroke} x1=\"0\" x2=\"36\" y1=\"6\" \
                 y2=\"6\"/></svg> {}</li>\n",
                escape(name)
            ),
        );
    }
    format!("{svg}</svg></svg>\n{legend}</ul>\n")
}

/// The points of a subject: a time in microseconds, and the share of reads that took longer. Where
/// fewer reads than for a percentile took longer, the line ends.
fn line(times: &Latencies) -> Vec<(f64, f64)> {
    let all = times.len();
    let mut until = 0;
    let mut points = Vec::new();
    for (time, count) in times.counts() {
        // A file of results may say anything.
        until = count.saturating_add(until);
        let beyond = all.saturating_sub(until);
        if beyond < BEYOND {
            break;
        }
        points.push((time as f64 / 1000.0, beyond as f64 / all as f64));
    }
    points
}

fn percent(part: f64) -> String {
    let percent = part * 100.0;
    let digits = (-percent.log10()).ceil().clamp(0.0, 6.0) as usize;
    format!("{percent:.digits$} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl Iterator<Item = u64>) -> Latencies {
        let mut all = Latencies::default();
        times.for_each(|time| all.add(time));
        all
    }

    #[test]
    fn a_line_ends_where_few_reads_are_left() {
        let points = line(&of((1..=100).map(|n| n * 1000)));
        assert_eq!(points.len(), 70);
        assert!(points.windows(2).all(|pair| pair[0].1 > pair[1].1));
        assert_eq!(points[69].1, 0.3);
        assert!(line(&of(1..=30)).is_empty());
    }

    #[test]
    fn each_subject_has_a_line_and_its_name() {
        let fast = of((1..=1000).map(|n| 10_000 + n * 10));
        let slow = of((1..=1000).map(|n| 1_000_000 + n * 1000));
        let html = plot(&[("fast <one>", fast), ("slow", slow)]);
        assert_eq!(html.matches("<polyline").count(), 2);
        assert!(html.contains("fast &lt;one&gt;</li>"), "{html}");
        assert_eq!(plot(&[("none", Latencies::default())]), "");
        assert_eq!(percent(0.3), "30 %");
        assert_eq!(percent(0.00005), "0.005 %");
    }
}
