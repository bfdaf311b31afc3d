//! `orders`: messages of a source system that sells food, good and bad, from a seed.
#![expect(clippy::disallowed_types, reason = "edge: writes files")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use e2e::orders::manifest::Manifest;
use e2e::orders::send::{self, Sender};
use e2e::orders::{Expected, Generator, Message, Settings, dictionary};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};

/// Produces orders as the source system does: versions of each order, late, repeated and bad ones in between
///
/// First the history goes out as fast as it can, then a live part of single orders at a steady rate.
/// The same seed and settings give the same messages.
#[derive(Parser)]
#[command(after_help = "Examples:
  Two thousand orders, their dictionary, and then five orders a minute until Ctrl-C:
    orders --to-kafka 127.0.0.1:29092 --topic order-service_orders --dictionary redis://127.0.0.1:26379/0
  Only history, and a list of what must become of it:
    orders --history 50000 --rate 0 --to-kafka 127.0.0.1:29092 --manifest manifest.json
  Into a file, one message a line, every tenth of them bad:
    orders --history 100 --rate 0 --bad 0.1 --to-file orders.ndjson
  Ten guests that the dictionary does not know, so that their orders have to wait:
    orders --rate 0 --withhold 10 --to-kafka 127.0.0.1:29092 --dictionary redis://127.0.0.1:26379/0")]
struct Cli {
    /// Orders of the history; each has one to five messages
    #[arg(long, default_value_t = 2000, value_name = "ORDERS")]
    history: usize,
    /// Orders a minute of the live part; 0 for none
    #[arg(long, default_value_t = 5.0, value_name = "ORDERS")]
    rate: f64,
    /// How long the live part lasts, such as 30s, 5m or 2h [default: until Ctrl-C]
    #[arg(long = "for", value_parser = duration, value_name = "TIME")]
    lasts: Option<Duration>,
    #[command(flatten)]
    target: Target,
    /// Topic; it must exist
    #[arg(long, default_value = "order-service_orders", value_name = "NAME")]
    topic: String,
    /// Load guests, restaurants and menus into this Redis first
    #[arg(long, value_name = "URL")]
    dictionary: Option<String>,
    /// Leave so many guests out of the dictionary
    #[arg(long, default_value_t = 0, value_name = "GUESTS")]
    withhold: usize,
    /// Write counts of what was produced, as JSON
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    #[command(flatten)]
    shape: Shape,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// Produce to Kafka: bootstrap servers
    #[arg(long, value_name = "HOST:PORT,…")]
    to_kafka: Option<String>,
    /// Write to a file instead, one message a line: {"value" or "base64", "expected"}
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
}

#[derive(Args)]
struct Shape {
    /// Decides all that the other options leave open
    #[arg(long, default_value_t = Settings::default().seed)]
    seed: u64,
    /// Guests
    #[arg(long, default_value_t = Settings::default().guests)]
    guests: usize,
    /// Restaurants
    #[arg(long, default_value_t = Settings::default().restaurants)]
    restaurants: usize,
    /// Share of the superseded versions that come after newer ones
    #[arg(long, default_value_t = Settings::default().late, value_parser = share, value_name = "SHARE")]
    late: f64,
    /// Share of the versions that come twice
    #[arg(long, default_value_t = Settings::default().duplicated, value_parser = share, value_name = "SHARE")]
    duplicated: f64,
    /// Share of the orders that end cancelled
    #[arg(long, default_value_t = Settings::default().cancelled, value_parser = share, value_name = "SHARE")]
    cancelled: f64,
    /// Share of the messages that are bad, up to 0.5
    #[arg(long, default_value_t = Settings::default().bad, value_parser = share, value_name = "SHARE")]
    bad: f64,
}

impl Shape {
    fn settings(&self) -> Settings {
        let Self {
            seed,
            guests,
            restaurants,
            late,
            duplicated,
            cancelled,
            bad,
        } = *self;
        Settings {
            seed,
            guests,
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
    if let Some(url) = &cli.dictionary {
        dictionary::load(url, generator.catalogue().entries(cli.withhold)).await?;
    }
    let mut output = Output::open(&cli).await?;
    let bar = bar(cli.history);
    let mut manifest = Manifest::default();
    for message in generator.history(cli.history) {
        output.put(&message).await?;
        manifest.count(&message);
        bar.inc(1);
    }
    manifest.orders = u64::try_from(cli.history)?;
    output.flush().await?;
    bar.finish_with_message("history produced");
    // The live part may have no end: what reads the manifest need not wait for it.
    write(cli.manifest.as_deref(), &manifest)?;
    if cli.rate > 0.0 {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            produced = live(&mut generator, &mut output, &mut manifest, &cli) => produced?,
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        }
        output.flush().await?;
        write(cli.manifest.as_deref(), &manifest)?;
    }
    Ok(())
}

fn write(path: Option<&Path>, manifest: &Manifest) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(manifest)? + "\n";
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// One order after the other at a steady rate, for as long as it was asked.
async fn live(
    generator: &mut Generator,
    output: &mut Output,
    manifest: &mut Manifest,
    cli: &Cli,
) -> Result<()> {
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "live     {pos} messages in {elapsed}",
    )?);
    let end = async {
        match cli.lasts {
            Some(lasts) => tokio::time::sleep(lasts).await,
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
        output.put(&message).await?;
        output.flush().await?;
        manifest.count(&message);
        manifest.orders += u64::from(message.expected == Expected::Good);
        bar.inc(1);
    }
    bar.finish();
    Ok(())
}

/// Where the messages go.
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
            (None, None) => bail!("name --to-kafka or --to-file"),
        }
    }

    async fn put(&mut self, message: &Message) -> Result<()> {
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

/// A bar for the history; three messages and a half are what an order has on average.
fn bar(orders: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("history  {bar:32} {pos} messages  {per_sec}  {msg}");
    let bar = ProgressBar::new(orders as u64 * 7 / 2);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err("a share is between 0 and 1".to_owned())
    }
}

/// `30s`, `5m` or `2h`.
fn duration(text: &str) -> Result<Duration, String> {
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
