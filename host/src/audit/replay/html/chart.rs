//! Charts as SVG: outcomes by class over time, and the numbers that would differ.
//!
//! In: counts and decimal texts. Out: SVG elements to stand in a page. All coordinates are integers, so the same report gives the same page.

use std::fmt::Write;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::escape;
use crate::audit::replay::class::Class;
use crate::audit::replay::render::time_text;
use crate::audit::replay::report::NumberDifference;
use crate::audit::replay::timeline::Timeline;
use crate::ids::Micros;

const WIDTH: u64 = 1_000;
const HEIGHT: u64 = 220;
const BARS_MAX: usize = 25;

fn colour(class: Class) -> &'static str {
    match class {
        Class::Same => "#b9c4cf",
        Class::PlanDiffers => "#8e5bd0",
        Class::ReasonDiffers => "#3f8fd2",
        Class::EventsDiffer => "#e0a100",
        Class::AcceptedToRejected => "#d2473f",
        Class::RejectedToAccepted => "#2f9e62",
        Class::Trap => "#5a2a2a",
        Class::Budget => "#a86b32",
        Class::RowsDiffer => "#d05ba5",
        Class::HostDrift => "#000000",
    }
}

/// A small square in the colour of the class.
pub fn swatch(class: Class) -> String {
    format!("<svg width=\"11\" height=\"11\"><rect width=\"11\" height=\"11\" fill=\"{}\"/></svg>", colour(class))
}

/// One bar a slice of time. Differences are few beside what is the same, so they have a chart of their own, with its own scale.
pub fn timeline(timeline: &Timeline) -> String {
    let (Some((first, _)), Some((last, _))) = (timeline.slices.first_key_value(), timeline.slices.last_key_value())
    else {
        return "<p>Nothing was decided again.</p>".to_owned();
    };
    let slices = u64::try_from(last - first).unwrap_or(0) + 1;
    let mut out = String::new();
    let charts: [(&str, &dyn Fn(Class) -> bool); 2] =
        [("all decisions", &|_| true), ("differences", &|class| class != Class::Same)];
    for (name, is_wanted) in charts {
        let total = |slice: &std::collections::BTreeMap<Class, u64>| -> u64 {
            slice.iter().filter(|(class, _)| is_wanted(**class)).map(|(_, count)| count).sum()
        };
        let most = timeline.slices.values().map(total).max().unwrap_or(0);
        if most == 0 {
            continue;
        }
        let mut bars = String::new();
        for (at, slice) in &timeline.slices {
            let number = u64::try_from(at - first).unwrap_or(0);
            let (left, right) = (number * WIDTH / slices, (number + 1) * WIDTH / slices);
            let mut top = HEIGHT;
            for (class, count) in slice.iter().filter(|(class, _)| is_wanted(**class)) {
                // What occurs at all is seen.
                let height = (count * HEIGHT / most).max(1).min(top);
                top -= height;
                let width = (right - left).max(2) - 1;
                write!(
                    bars,
                    "<rect x=\"{left}\" y=\"{}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"><title>{class}: {count}</title></rect>",
                    top + 16,
                    colour(*class)
                )
                .expect("writing to memory cannot fail");
            }
        }
        let begin = time_text(Micros(first.saturating_mul(timeline.width)));
        let end = time_text(Micros((last + 1).saturating_mul(timeline.width)));
        write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {}\" width=\"100%\" role=\"img\"><text x=\"0\" y=\"11\">{name}; the highest bar is {most}</text>{bars}\
             <line x1=\"0\" x2=\"{WIDTH}\" y1=\"{}\" y2=\"{}\" stroke=\"#59626d\"/><text x=\"0\" y=\"{}\">{}</text>\
             <text x=\"{WIDTH}\" y=\"{}\" text-anchor=\"end\">{}</text></svg>",
            HEIGHT + 36,
            HEIGHT + 16,
            HEIGHT + 16,
            HEIGHT + 31,
            escape(&begin),
            HEIGHT + 31,
            escape(&end)
        )
        .expect("writing to memory cannot fail");
    }
    out
}

/// The greatest differences, to the right where the candidate has more.
pub fn numbers(numbers: &[NumberDifference]) -> String {
    let shown: Vec<(&NumberDifference, Decimal)> = numbers
        .iter()
        .take(BARS_MAX)
        .filter_map(|number| Some((number, number.difference.parse::<Decimal>().ok()?)))
        .collect();
    let Some(most) = shown.iter().map(|(_, difference)| difference.abs()).max().filter(|most| !most.is_zero()) else {
        return String::new();
    };
    let (middle, reach) = (640, 260);
    let mut bars = String::new();
    for (at, (number, difference)) in shown.iter().enumerate() {
        let share =
            difference.abs().checked_div(most).and_then(|share| (share * Decimal::from(reach)).round().to_u64());
        let (top, width) = (at * 20, share.unwrap_or(1).max(1));
        let (left, fill) =
            if difference.is_sign_negative() { (middle - width, "#d2473f") } else { (middle, "#2f9e62") };
        let name = escape(&format!("{} {}", number.entity, number.path));
        write!(
            bars,
            "<text x=\"360\" y=\"{}\" text-anchor=\"end\">{name}</text><rect x=\"{left}\" y=\"{}\" width=\"{width}\" height=\"14\" \
             fill=\"{fill}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            top + 13,
            top + 2,
            WIDTH,
            top + 13,
            escape(&number.difference)
        )
        .expect("writing to memory cannot fail");
    }
    let height = shown.len() * 20 + 4;
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" role=\"img\">{bars}<line x1=\"{middle}\" x2=\"{middle}\" y1=\"0\" \
         y2=\"{height}\" stroke=\"#59626d\"/></svg>"
    )
}
