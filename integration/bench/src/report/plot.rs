//! Plots as inline SVG: bars that compare the subjects of a row, or lines along an axis.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::{Error, Result};
use crate::figures::figure;
use crate::report::series::Line;
use crate::results::Measure;
use crate::stats::Summary;

const WIDTH: u32 = 640;
/// Height of one subject's bar.
const BAR: u32 = 26;
/// Width of the column with the subjects' names.
const NAMES: i32 = 170;
/// Width of the column with the figures, at the right of the bars.
const FIGURES: i32 = 110;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The colour of the subject at a position. mini-vmm always has the first position.
fn colour(position: usize) -> RGBColor {
    [
        RGBColor(0x1f, 0x77, 0xb4),
        RGBColor(0x8c, 0x8c, 0x8c),
        RGBColor(0xd6, 0x5f, 0x1e),
        RGBColor(0x2c, 0x9a, 0x4b),
        RGBColor(0x93, 0x56, 0xb8),
        RGBColor(0xb5, 0x9b, 0x1a),
        RGBColor(0xc0, 0x3a, 0x5b),
    ][position % 7]
}

/// Draws one row: each subject has a bar up to the median, and a line from the first to the third
/// quartile. The position in `subjects` determines the colour.
pub fn bars(row: &[&Measure], subjects: &[&str]) -> Result<String> {
    let mut bars: Vec<(usize, Summary)> = row
        .iter()
        .filter_map(|measure| Some((position(subjects, &measure.subject), measure.summary()?)))
        .collect();
    bars.sort_by_key(|(position, _)| *position);
    let most = bars.iter().map(|(_, s)| s.q3).fold(0.0, f64::max);
    let mut svg = String::new();
    let height = BAR * bars.len() as u32 + 6;
    {
        let area: Area<'_> = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let width = f64::from(WIDTH as i32 - NAMES - FIGURES);
        let x = |value: f64| {
            let fraction = if most > 0.0 { value / most } else { 0.0 };
            NAMES + (fraction * width) as i32
        };
        for (n, (position, summary)) in bars.iter().enumerate() {
            let top = n as i32 * BAR as i32 + 5;
            let middle = top + 8;
            area.draw(&text(subjects[*position].to_owned(), 4, top + 1))
                .map_err(failed)?;
            let bar = [(NAMES, top), (x(summary.median).max(NAMES + 1), top + 16)];
            area.draw(&Rectangle::new(bar, colour(*position).mix(0.75).filled()))
                .map_err(failed)?;
            let spread = vec![(x(summary.q1), middle), (x(summary.q3), middle)];
            area.draw(&PathElement::new(spread, BLACK.stroke_width(2)))
                .map_err(failed)?;
            let behind = x(summary.q3.max(summary.median)) + 6;
            area.draw(&text(figure(summary.median), behind, top + 1))
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(tidy(&svg))
}

/// Draws the growth along one axis, with a line for each subject.
pub fn growth(lines: &[&Line], subjects: &[&str]) -> Result<String> {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let right = points().map(|point| point.0).fold(0.0, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max);
    let Some(first) = lines.first().filter(|_| right > 0.0 && top > 0.0) else {
        return Err(Error::new("a plot of nothing"));
    };
    let mut svg = String::new();
    {
        let area: Area<'_> = SVGBackend::with_string(&mut svg, (WIDTH, 260)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(150)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..right * 1.05, 0.0..top * 1.1)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(&first.axis)
            .y_desc(&first.unit)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| figure(*y))
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 12))
            .draw()
            .map_err(failed)?;
        for line in lines {
            let position = position(subjects, &line.subject);
            let mut points = line.points.clone();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let dots = points
                .iter()
                .map(|point| Circle::new(*point, 3, colour(position).filled()));
            chart.draw_series(dots).map_err(failed)?;
            let stroke = colour(position).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points, stroke))
                .map_err(failed)?;
        }
        for (n, line) in lines.iter().enumerate() {
            let y = 14 + 18 * n as i32;
            let position = position(subjects, &line.subject);
            let left = WIDTH as i32 - 140;
            let mark = [(left, y), (left + 10, y + 10)];
            area.draw(&Rectangle::new(mark, colour(position).filled()))
                .map_err(failed)?;
            area.draw(&text(line.subject.clone(), left + 16, y - 1))
                .map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(tidy(&svg))
}

fn position(subjects: &[&str], subject: &str) -> usize {
    let found = subjects.iter().position(|known| *known == subject);
    found.unwrap_or(0)
}

fn text<'a>(what: String, x: i32, y: i32) -> Text<'a, (i32, i32), String> {
    Text::new(what, (x, y), ("sans-serif", 13).into_font())
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::new(format!("cannot draw a plot: {error}"))
}

/// Removes the XML declaration, so that the SVG can be a part of a page.
fn tidy(svg: &str) -> String {
    svg.find("<svg").map_or("", |at| &svg[at..]).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::series::lines;
    use crate::results::tests::example;

    #[test]
    fn a_row_has_a_bar_for_each_and_is_part_of_a_page() {
        let results = example();
        let subjects = results.subjects(1);
        let svg = bars(&results.rows(1)[0], &subjects).unwrap();
        assert!(
            svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"),
            "{svg}"
        );
        assert_eq!(svg.matches("<rect").count(), 2, "{svg}");
        assert!(svg.contains("mini-vmm") && svg.contains("9.00"), "{svg}");
    }

    #[test]
    fn growth_has_a_dot_for_each_point() {
        let results = example();
        let lines = lines(&results, 1);
        let lines: Vec<&Line> = lines.iter().filter(|line| line.points.len() > 1).collect();
        let svg = growth(&lines, &results.subjects(1)).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(growth(&[], &[]).is_err());
    }
}
