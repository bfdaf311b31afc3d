//! `orders`: produces messages of a simulated order system, valid and malformed, from a seed.
#![expect(clippy::disallowed_types, reason = "edge: writes files")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use e2e::orders::manifest::Manifest;
use e2e::orders::send::{self, Sender};
use e2e::orders::{Expected, Generator, Message, Settings, reference_data};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

/// Produce orders as the source system does: all versions of each order, with late, duplicated and malformed messages
///
/// Produces a history without a rate limit, then live orders at a steady rate.
/// The same seed and settings give the same messages.
#[derive(Parser)]
#[command(after_help = "Examples:
  Two thousand orders with their reference data, then five orders per minute until Ctrl-C:
    orders --to-kafka 127.0.0.1:29092 --topic order-service_orders --reference-data redis://127.0.0.1:26379/0
  A history only, with the expected results as JSON:
    orders --history 50000 --rate 0 --to-kafka 127.0.0.1:29092 --manifest manifest.json
  A file with one message per line, a tenth of them malformed:
    orders --history 100 --rate 0 --bad 0.1 --to-file orders.ndjson
  Ten users missing in the reference data, so that their orders are pending:
    orders --rate 0 --withhold 10 --to-kafka 127.0.0.1:29092 --reference-data redis://127.0.0.1:26379/0")]
struct Cli {
    /// Number of orders in the history; each has one to five messages
    #[arg(long, default_value_t = 2000, value_name = "ORDERS")]
    history: usize,
    /// Live orders per minute; 0 produces only the history
    #[arg(long, default_value_t = 5.0, value_name = "ORDERS")]
    rate: f64,
    /// Duration of the live part, such as 30s, 5m or 2h [default: until Ctrl-C]
    #[arg(long = "for", value_parser = parse_duration, value_name = "TIME")]
    live_duration: Option<Duration>,
    #[command(flatten)]
    target: Target,
    /// Topic; it must exist
    #[arg(long, default_value = "order-service_orders", value_name = "NAME")]
    topic: String,
    /// Load users, restaurants and menus into this Redis first
    #[arg(long, value_name = "URL")]
    reference_data: Option<String>,
    /// Number of users to omit from the reference data
    #[arg(long, default_value_t = 0, value_name = "USERS")]
    withhold: usize,
    /// Write the counts of the produced messages to this file, as JSON
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Bootstrap servers of the Kafka to produce to
    #[arg(long, value_name = "HOST:PORT,…")]
    to_kafka: Option<String>,
    /// Write to this file instead, one JSON object per line: {"value" or "base64", "expected"}
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
}

#[derive(Args)]
struct Shape {
    /// Seed of the random numbers
    #[arg(long, default_value_t = Settings::default().seed)]
    seed: u64,
    /// Number of users
    #[arg(long, default_value_t = Settings::default().users)]
    users: usize,
    /// Number of restaurants
    #[arg(long, default_value_t = Settings::default().restaurants)]
    restaurants: usize,
    /// Share of the superseded versions that arrive after newer ones
    #[arg(long, default_value_t = Settings::default().late, value_parser = parse_share, value_name = "SHARE")]
    late: f64,
    /// Share of the versions that are sent twice
    #[arg(long, default_value_t = Settings::default().duplicated, value_parser = parse_share, value_name = "SHARE")]
    duplicated: f64,
    /// Share of the orders that are cancelled
    #[arg(long, default_value_t = Settings::default().cancelled, value_parser = parse_share, value_name = "SHARE")]
    cancelled: f64,
    /// Share of malformed messages, up to 0.5
    #[arg(long, default_value_t = Settings::default().bad, value_parser = parse_share, value_name = "SHARE")]
    bad: f64,
}

impl Shape {
    fn settings(&self) -> Settings {
        let Self {
            seed,
            users,
            restaurants,
            late,
            duplicated,
            cancelled,
            bad,
        } = *self;
        Settings {
            seed,
            users,
            restaurants,
            late,
            duplicated,
            cancelled,
            bad,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut generator = Generator::new(&cli.shape.settings());
    if let Some(url) = &cli.reference_data {
        reference_data::load(url, generator.catalogue().entries(cli.withhold)).await?;
    }
    let mut output = Output::open(&cli).await?;
    let bar = history_bar(cli.history);
    let mut manifest = Manifest::default();
    for message in generator.history(cli.history) {
        output.send(&message).await?;
        manifest.count(&message);
        bar.inc(1);
    }
    manifest.orders = u64::try_from(cli.history)?;
    output.flush().await?;
    bar.finish_with_message("history produced");
    // The live part may never end, so the counts of the history are written before it.
    write_manifest(cli.manifest.as_deref(), &manifest)?;
    if cli.rate > 0.0 {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = produce_live(&mut generator, &mut output, &mut manifest, &cli) => result?,
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        output.flush().await?;
        write_manifest(cli.manifest.as_deref(), &manifest)?;
    }
    Ok(())
}

fn write_manifest(path: Option<&Path>, manifest: &Manifest) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(manifest)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Produces single messages at a steady rate, for the requested duration.
async fn produce_live(
    generator: &mut Generator,
    output: &mut Output,
    manifest: &mut Manifest,
    cli: &Cli,
) -> Result<()> {
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "live     {pos} messages in {elapsed}",
    )?);
    let end = async {
        match cli.live_duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(60.0 / cli.rate));
    for message in generator.live() {
        tokio::select! {
            biased;
            () = &mut end => break,
            _ = ticks.tick() => {}
        }
        output.send(&message).await?;
        output.flush().await?;
        manifest.count(&message);
        manifest.orders += u64::from(message.expected == Expected::Good);
        bar.inc(1);
    }
    bar.finish();
    Ok(())
}

/// Destination of the messages.
enum Output {
    Kafka(Box<Sender>),
    File(BufWriter<File>),
}

impl Output {
    async fn open(cli: &Cli) -> Result<Self> {
        match (&cli.target.to_kafka, &cli.target.to_file) {
            (Some(servers), _) => Ok(Self::Kafka(Box::new(
                Sender::connect(servers, &cli.topic, cli.shape.seed).await?,
            ))),
            (None, Some(path)) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(Self::File(BufWriter::new(file)))
            }
            (None, None) => bail!("set --to-kafka or --to-file"),
        }
    }

    async fn send(&mut self, message: &Message) -> Result<()> {
        match self {
            Self::Kafka(sender) => sender.send(message).await,
            Self::File(file) => send::write_line(file, message),
        }
    }

    async fn flush(&mut self) -> Result<()> {
        match self {
            Self::Kafka(sender) => sender.flush().await.map(|_| ()),
            Self::File(file) => Ok(file.flush()?),
        }
    }
}

/// Progress bar of the history, for an average of 3.5 messages per order.
fn history_bar(orders: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("history  {bar:32} {pos} messages  {per_sec}  {msg}");
    let bar = ProgressBar::new(orders as u64 * 7 / 2);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err("not between 0 and 1".to_owned())
    }
}

/// Parses a duration such as `30s`, `5m` or `2h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("unknown unit {other}; use s, m or h")),
    };
    let seconds: f64 = number
        .parse()
        .map_err(|_| "not a number with a unit, such as 30s")?;
    Duration::try_from_secs_f64(seconds * unit).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{parse_duration, parse_share};

    #[test]
    fn a_duration_has_a_number_and_a_unit() {
        assert_eq!(parse_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("0.5m"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_hours(2)));
        assert!(parse_duration("2d").is_err_and(|error| error.contains("use s, m or h")));
        assert!(parse_duration("s").is_err() && parse_duration("-1s").is_err());
    }

    #[test]
    fn a_share_is_between_0_and_1() {
        assert_eq!((parse_share("0"), parse_share("1")), (Ok(0.0), Ok(1.0)));
        assert!(parse_share("1.1").is_err() && parse_share("NaN").is_err() && parse_share("x").is_err());
    }
}
