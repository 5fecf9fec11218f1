//! Plot: the latency distribution as an SVG picture.
//!
//! The horizontal axis is the percentile, stretched towards its end: each 9 gets the same width, so that the tail can
//! be read. The vertical axis is the latency, logarithmic. Each kind of operation is one line; nothing is smoothed.

use std::fmt::Write;

use hdrhistogram::Histogram;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 62.0;
const BOTTOM: f64 = 54.0;

/// Points of a line for each 9 of the percentile.
const POINTS_PER_NINE: usize = 60;

/// One line of the plot.
#[derive(Debug)]
pub struct Line<'a> {
    /// What the legend calls it.
    pub name: &'a str,
    /// Its colour as SVG names colours.
    pub colour: &'a str,
    /// Latencies in nanoseconds.
    pub latency: &'a Histogram<u64>,
}

struct Axes {
    /// Width of the percentile axis in nines: 3 ends at 99.9 %.
    nines: f64,
    /// Ends of the latency axis as logarithms of microseconds.
    low: f64,
    high: f64,
}

impl Axes {
    fn new(lines: &[Line<'_>]) -> Axes {
        let count = lines.iter().map(|line| line.latency.len()).max().unwrap_or(1).max(10);
        let min = lines.iter().map(|line| line.latency.min()).min().unwrap_or(1000).max(100);
        let max = lines.iter().map(|line| line.latency.max()).max().unwrap_or(1000).max(min + 1);
        let log_us = |ns: u64| (ns as f64 / 1000.0).log10();
        // The last percentile shown still has a few samples above it.
        let nines = ((count as f64 / 5.0).log10().floor()).clamp(1.0, 6.0);
        Axes { nines, low: log_us(min).floor(), high: log_us(max).ceil().max(log_us(min).floor() + 1.0) }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + nines / self.nines * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, us: f64) -> f64 {
        let share = (us.max(1e-3).log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

/// The picture of `lines` under `title`.
pub fn render(title: &str, subtitle: &str, lines: &[Line<'_>]) -> String {
    let axes = Axes::new(lines);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#333\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"600\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"40\" fill=\"#666\">{}</text>",
        escape(title),
        escape(subtitle)
    );
    draw_latency_axis(&mut svg, &axes);
    draw_percentile_axis(&mut svg, &axes);
    for (number, line) in lines.iter().enumerate() {
        draw_line(&mut svg, &axes, line);
        draw_legend(&mut svg, number, line);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_latency_axis(svg: &mut String, axes: &Axes) {
    for decade in axes.low as i32..=axes.high as i32 {
        for step in 1..10 {
            let us = f64::from(step) * 10f64.powi(decade);
            if us.log10() > axes.high + 1e-9 {
                break;
            }
            let (y, colour) = (axes.y(us), if step == 1 { "#ccc" } else { "#f0f0f0" });
            let end = WIDTH - RIGHT;
            let _ = writeln!(svg, "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"{colour}\"/>");
            if step == 1 {
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                    LEFT - 8.0,
                    y + 4.0,
                    duration_label(us)
                );
            }
        }
    }
}

fn draw_percentile_axis(svg: &mut String, axes: &Axes) {
    let bottom = HEIGHT - BOTTOM;
    let mut ticks = vec![(0.0, "0".to_string()), (0.5f64, "50".to_string())];
    ticks.extend((1..=axes.nines as usize).map(|nines| (1.0 - 10f64.powi(-(nines as i32)), percent_label(nines))));
    for (quantile, label) in ticks {
        let x = axes.x(-(1.0 - quantile).log10());
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>\n\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
            bottom + 18.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">percentile</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0
    );
}

fn draw_line(svg: &mut String, axes: &Axes, line: &Line<'_>) {
    let mut path = String::new();
    let points = axes.nines as usize * POINTS_PER_NINE;
    for point in 0..=points {
        let nines = axes.nines * point as f64 / points as f64;
        let latency_us = line.latency.value_at_quantile(1.0 - 10f64.powf(-nines)) as f64 / 1000.0;
        let command = if point == 0 { 'M' } else { 'L' };
        let _ = write!(path, "{command}{:.1} {:.1}", axes.x(nines), axes.y(latency_us));
    }
    let _ = writeln!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>",
        line.colour
    );
}

fn draw_legend(svg: &mut String, number: usize, line: &Line<'_>) {
    let (x, y) = (LEFT + 14.0, TOP + 18.0 + 18.0 * number as f64);
    let quantile = |quantile| duration_label(line.latency.value_at_quantile(quantile) as f64 / 1000.0);
    let _ = writeln!(
        svg,
        "<path d=\"M{x} {:.1}h22\" stroke=\"{}\" stroke-width=\"3\"/>\n\
         <text x=\"{:.1}\" y=\"{y:.1}\">{}: p50 {}, p99 {}, p99.9 {}, max {}</text>",
        y - 4.0,
        line.colour,
        x + 30.0,
        escape(line.name),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        duration_label(line.latency.max() as f64 / 1000.0)
    );
}

/// 90, 99, 99.9, 99.99 …
fn percent_label(nines: usize) -> String {
    match nines {
        1 => "90".to_string(),
        2 => "99".to_string(),
        _ => format!("99.{}", "9".repeat(nines - 2)),
    }
}

fn duration_label(us: f64) -> String {
    let (value, unit) = match us {
        _ if us >= 1e6 => (us / 1e6, "s"),
        _ if us >= 1e3 => (us / 1e3, "ms"),
        _ => (us, "µs"),
    };
    // Three digits are what the histogram knows.
    let decimals = if value >= 100.0 || value.fract() < 1e-9 { 0 } else { 1 };
    format!("{value:.decimals$} {unit}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(latencies_ns: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(100, 600_000_000_000, 3).unwrap();
        for latency_ns in latencies_ns {
            histogram.record(latency_ns).unwrap();
        }
        histogram
    }

    /// The points of the only line drawn with a stroke width of 2.
    fn points(svg: &str) -> Vec<(f64, f64)> {
        let end = svg.find("\" fill=\"none\"").unwrap();
        let start = svg[..end].rfind("d=\"").unwrap() + 3;
        let number = |text: &str| text.parse::<f64>().unwrap();
        svg[start..end]
            .split(['M', 'L'])
            .filter(|point| !point.is_empty())
            .map(|point| point.split_once(' ').map(|(x, y)| (number(x), number(y))).unwrap())
            .collect()
    }

    #[test]
    fn the_line_rises_inside_the_axes() {
        let latency = histogram((1..=100_000).map(|number| number * 1000));
        let svg = render("a < b & c", "run", &[Line { name: "put", colour: "#06c", latency: &latency }]);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains("a &lt; b &amp; c"));
        let points = points(&svg);
        assert_eq!(points.len(), 4 * POINTS_PER_NINE + 1);
        assert_eq!((points[0].0, points[points.len() - 1].0), (LEFT, WIDTH - RIGHT));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 >= pair[1].1), "not monotonic");
        assert!(points.iter().all(|&(_, y)| (TOP..=HEIGHT - BOTTOM).contains(&y)), "outside the axes");
    }

    #[test]
    fn every_tag_is_closed_and_every_percentile_labelled() {
        let latency = histogram((1..=100_000).map(|number| number * 1000));
        let svg = render("t", "s", &[Line { name: "get", colour: "red", latency: &latency }]);
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert_eq!(svg.matches("<path").count() + svg.matches("<rect").count(), svg.matches("/>").count());
        for label in [">50<", ">90<", ">99<", ">99.9<", ">99.99<", ">1 µs<", ">1 ms<", ">100 ms<"] {
            assert!(svg.contains(label), "{label} is missing");
        }
    }

    #[test]
    fn one_sample_and_none_at_all_still_make_a_picture() {
        for latency in [histogram([]), histogram([5000])] {
            let svg = render("t", "s", &[Line { name: "put", colour: "red", latency: &latency }]);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn durations_have_a_fitting_unit() {
        let labels: Vec<String> = [0.5, 1.0, 123.4, 1000.0, 1234.0, 2e6].into_iter().map(duration_label).collect();
        assert_eq!(labels, ["0.5 µs", "1 µs", "123 µs", "1 ms", "1.2 ms", "2 s"]);
    }
}
