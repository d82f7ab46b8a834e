//! Charts as SVG: outcomes by class over time, and the numbers that would differ.
//!
//! In: counts and decimal texts. Out: SVG elements for a page. All coordinates are integers, so the same report gives
//! the same page. It does not know what the numbers mean.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::{escape, grouped, moment};
use crate::audit::replay::class::Class;
use crate::audit::replay::report::NumberDifference;
use crate::audit::replay::timeline::Timeline;

const WIDTH: u64 = 1_000;
/// The left edge of the drawn part; the numbers are to its left.
const LEFT: u64 = 64;
const TOP: u64 = 20;
const HEIGHT: u64 = 190;
const TICKS: i64 = 4;
const BARS_MAX: usize = 25;
const PATHS_MAX: usize = 12;

pub fn colour(class: Class) -> &'static str {
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
    format!(
        "<svg width=\"11\" height=\"11\"><rect width=\"11\" height=\"11\" rx=\"2\" fill=\"{}\"/></svg>",
        colour(class)
    )
}

/// When the slice begins, in widths, and its counts.
type Slice = (i64, Vec<(Class, u64)>);

/// One bar for each slice of time. Differences are few compared with what is the same, so they have a chart of their
/// own, with its own scale.
pub fn timeline(timeline: &Timeline, differences: u64) -> String {
    let (Some((first, _)), Some((last, _))) = (timeline.slices.first_key_value(), timeline.slices.last_key_value())
    else {
        return "<p>Nothing was decided again.</p>".to_owned();
    };
    let range = (*first, *last);
    let all = |_: &Class| true;
    let mut out = legend(timeline);
    out.push_str(&chart("All decisions", timeline, range, &wanted(timeline, all)));
    if differences == 0 {
        out.push_str("<p>No decision differs at any time.</p>");
    } else {
        out.push_str(&chart("Differences alone", timeline, range, &wanted(timeline, |class| *class != Class::Same)));
    }
    out
}

fn wanted(timeline: &Timeline, is_wanted: impl Fn(&Class) -> bool) -> Vec<Slice> {
    let counts = |slice: &BTreeMap<Class, u64>| {
        slice.iter().filter(|(class, _)| is_wanted(class)).map(|(class, count)| (*class, *count)).collect()
    };
    timeline.slices.iter().map(|(at, slice)| (*at, counts(slice))).collect()
}

fn legend(timeline: &Timeline) -> String {
    let seen: BTreeSet<Class> = timeline.slices.values().flat_map(|slice| slice.keys().copied()).collect();
    let items: Vec<String> = seen.into_iter().map(|class| format!("<span>{} {class}</span>", swatch(class))).collect();
    let seconds = timeline.width / 1_000_000;
    format!("<div class=\"legend\">{}<span class=\"q\">a bar is {}</span></div>", items.concat(), duration(seconds))
}

fn duration(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn chart(name: &str, timeline: &Timeline, (first, last): (i64, i64), slices: &[Slice]) -> String {
    let total = |counts: &[(Class, u64)]| counts.iter().map(|(_, count)| count).sum::<u64>();
    let most = slices.iter().map(|(_, counts)| total(counts)).max().unwrap_or(0).max(1);
    let count = u64::try_from(last - first).unwrap_or(0) + 1;
    let (bottom, room) = (TOP + HEIGHT, WIDTH - LEFT);
    let mut inside = String::new();
    let mut draw = |text: std::fmt::Arguments<'_>| inside.write_fmt(text).expect("writing to memory cannot fail");
    // Even numbers at the left, as many as are different.
    let mut levels = vec![0, most / 2, most];
    levels.dedup();
    for level in levels {
        let y = bottom - level * HEIGHT / most;
        draw(format_args!(
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#e3e7eb\"/><text x=\"{}\" y=\"{}\" \
             text-anchor=\"end\">{}</text>",
            LEFT - 8,
            y + 4,
            grouped(level)
        ));
    }
    for (at, counts) in slices {
        let number = u64::try_from(at - first).unwrap_or(0);
        let (left, right) = (LEFT + number * room / count, LEFT + (number + 1) * room / count);
        let mut top = bottom;
        let begin = escape(&moment(at.saturating_mul(timeline.width)));
        for (class, count) in counts {
            // A class that occurs at all must be visible.
            let height = (count * HEIGHT / most).max(2).min(top - TOP);
            top -= height;
            draw(format_args!(
                "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{height}\" fill=\"{}\"><title>{begin}: {class} \
                 {}</title></rect>",
                (right - left).max(2) - 1,
                colour(*class),
                grouped(*count)
            ));
        }
    }
    draw(format_args!("<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{bottom}\" y2=\"{bottom}\" stroke=\"#59626d\"/>"));
    for tick in 0..=TICKS {
        let x = LEFT + room * tick.unsigned_abs() / TICKS.unsigned_abs();
        let anchor = if tick == 0 {
            "start"
        } else if tick == TICKS {
            "end"
        } else {
            "middle"
        };
        // There are at most 120 slices, and their width is a power of two of a second.
        let micros =
            first.saturating_mul(timeline.width) + (last - first + 1).saturating_mul(timeline.width) / TICKS * tick;
        let text = moment(micros - micros.rem_euclid(1_000_000));
        let short = if tick == 0 || tick == TICKS { text.as_str() } else { text.trim_end_matches(" UTC") };
        draw(format_args!("<text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>", bottom + 17, escape(short)));
    }
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" width=\"100%\" role=\"img\" aria-label=\"{name}\"><text x=\"{LEFT}\" y=\"12\" \
         font-weight=\"600\">{name}</text>{inside}</svg>",
        bottom + 24
    )
}

/// The greatest differences. Each number of a row has its own chart, because their units may differ.
pub fn numbers(numbers: &[NumberDifference]) -> String {
    let mut paths: Vec<&str> = Vec::new();
    for number in numbers {
        if !paths.contains(&number.path.as_str()) {
            paths.push(&number.path);
        }
    }
    let of_path = |path: &str| numbers.iter().filter(|number| number.path == path).collect::<Vec<_>>();
    paths.into_iter().take(PATHS_MAX).map(|path| numbers_of(path, &of_path(path))).collect()
}

/// Bars extend to the right if the candidate has more.
fn numbers_of(path: &str, numbers: &[&NumberDifference]) -> String {
    let shown: Vec<(&NumberDifference, Decimal)> = numbers
        .iter()
        .take(BARS_MAX)
        .filter_map(|number| Some((*number, number.difference.parse::<Decimal>().ok()?)))
        .collect();
    let Some(most) = shown.iter().map(|(_, difference)| difference.abs()).max().filter(|most| !most.is_zero()) else {
        return String::new();
    };
    // Names, bars to both sides of the middle, and the numbers they stand for.
    let (names, middle, reach, line) = (300, 590, 270, 22);
    let mut bars = String::new();
    for (at, (number, difference)) in shown.iter().enumerate() {
        let share =
            difference.abs().checked_div(most).and_then(|share| (share * Decimal::from(reach)).round().to_u64());
        let (top, width) = (at * line + line, share.unwrap_or(1).max(1));
        let (left, fill, sign) =
            if difference.is_sign_negative() { (middle - width, "#d2473f", "") } else { (middle, "#2f9e62", "+") };
        write!(
            bars,
            "<text x=\"{names}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{left}\" y=\"{}\" width=\"{width}\" \
             height=\"15\" rx=\"2\" fill=\"{fill}\"/><text x=\"{WIDTH}\" y=\"{}\" text-anchor=\"end\">{sign}{}</text>",
            top + 13,
            escape(&number.entity),
            top + 1,
            top + 13,
            escape(&number.difference)
        )
        .expect("writing to memory cannot fail");
    }
    let height = (shown.len() + 1) * line + 10;
    let more = numbers.len() - shown.len();
    let more = if more == 0 { String::new() } else { format!(" and {more} smaller ones") };
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" role=\"img\" aria-label=\"Numbers that would \
         differ\"><text x=\"{}\" y=\"13\" text-anchor=\"end\">less than recorded</text><text x=\"{}\" y=\"13\">more \
         than recorded</text><text x=\"0\" y=\"13\" font-weight=\"700\">{}{more}</text>{bars}<line x1=\"{middle}\" \
         x2=\"{middle}\" y1=\"0\" y2=\"{}\" stroke=\"#59626d\"/></svg>",
        middle - 10,
        middle + 10,
        escape(path),
        height - 8
    )
}

#[cfg(test)]
mod tests {
    use super::{duration, timeline};
    use crate::audit::replay::class::Class;
    use crate::audit::replay::timeline::Timeline;
    use crate::ids::Micros;

    #[test]
    fn a_chart_has_a_bar_for_each_class_of_each_slice_and_none_for_nothing() {
        let mut counted = Timeline::default();
        assert_eq!(timeline(&counted, 0), "<p>Nothing was decided again.</p>");
        counted.count(Micros(5_000_000), Class::Same, 1_000_000);
        let same = timeline(&counted, 0);
        assert!(
            same.contains("1,000,000")
                && same.contains("No decision differs")
                && same.matches("<svg viewBox").count() == 1,
            "{same}"
        );
        counted.count(Micros(9_000_000), Class::Trap, 1);
        let both = timeline(&counted, 1);
        assert_eq!((both.matches("<svg viewBox").count(), both.matches("<title>").count()), (2, 3), "{both}");
        assert!(both.contains("height=\"2\""), "one among a million is seen: {both}");
        assert_eq!([64, 256, 16_384, 1 << 20].map(duration), ["64 s", "4 min", "4 h", "12 days"]);
    }
}
