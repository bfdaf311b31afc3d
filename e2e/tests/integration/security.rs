//! Services with TLS and authentication: the worker reads both from its secrets, and an error names the secret.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: creates certificates, and configures Redis and PostgreSQL to use them"
)]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::orders::{Generator, Settings};
use e2e::pipeline::Pipeline;
use e2e::services::{Options, Services};

const ORDERS: usize = 100;
const PASSWORD: &str = "open-sesame-7";
const WRONG_PASSWORD: &str = "close-sesame-8";
const DEADLINE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_connects_with_tls_and_credentials() -> Result<()> {
    // Own services, because they are reconfigured.
    let mut services = Services::start(&Options::default()).await?;
    let folder = services
        .folder()
        .context("the services have a folder")?
        .to_owned();
    let mut generator = Generator::new(&Settings::default());
    let messages: Vec<_> = generator.history(ORDERS).collect();
    create_certificates(&folder)?;
    let ports = [pick_free_port()?, pick_free_port()?];
    secure_kafka(&mut services, &folder, ports[0]).await?;
    let mut pipeline = Pipeline::create(&services, "security", 2).await?;
    pipeline.load_reference_data(&generator, 0).await?;
    pipeline.produce(1, messages.into_iter()).await?;
    secure_postgres(&pipeline, &folder).await?;
    secure_redis(&services, &folder, ports[1]).await?;
    configure_stage(&mut pipeline, &services, ports)?;

    let secrets = folder.join("secrets");
    let flags = ["--secrets-dir", secrets.to_str().context("a path in UTF-8")?];
    for (secret, dependency) in [
        ("kafka", "source"),
        ("postgres", "warehouse"),
        ("redis", "reference_data"),
    ] {
        write_secrets(&folder, Some(secret))?;
        assert_secret_reported(&pipeline, &flags, secret, dependency).await?;
    }
    write_secrets(&folder, None)?;
    let worker = pipeline.start_worker_with_flags(&["stg"], &flags)?;
    let stored = "SELECT count(*) FROM stg.order_events";
    let deadline = Instant::now() + DEADLINE;
    while pipeline.query_scalar::<i64>(stored).await? < i64::try_from(ORDERS)? {
        ensure!(
            Instant::now() < deadline,
            "not all orders are stored:\n{}",
            worker.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'streamstage stg'";
    ensure!(
        pipeline.query_scalar::<bool>(encrypted).await?,
        "a connection to PostgreSQL is not encrypted"
    );
    ensure!(!worker.log().contains(PASSWORD), "the password is in the log");
    Ok(())
}

/// With a wrong password the worker logs the field that references the secret, but never a password.
async fn assert_secret_reported(
    pipeline: &Pipeline,
    flags: &[&str],
    secret: &str,
    dependency: &str,
) -> Result<()> {
    let worker = pipeline.start_worker_with_flags(&["stg"], flags)?;
    let field = match secret {
        "kafka" => "spec.source.authSecretName",
        "postgres" => "spec.warehouse.authSecretName",
        _ => "spec.referenceData.authSecretName",
    };
    let (_, line) = worker.wait_for_log(field).await?;
    ensure!(
        line.to_lowercase().contains(dependency),
        "reports another dependency: {line}"
    );
    for password in [PASSWORD, WRONG_PASSWORD] {
        ensure!(!worker.log().contains(password), "a password is in the log");
    }
    Ok(())
}

/// Creates a CA certificate `ca.crt`, and `server.crt` with `server.key` for 127.0.0.1, signed by it.
fn create_certificates(folder: &Path) -> Result<()> {
    let tls = folder.join("tls");
    fs::create_dir_all(&tls)?;
    fs::write(tls.join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n")?;
    for line in [
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=127.0.0.1",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
    ] {
        let output = Command::new("openssl")
            .args(line.split(' '))
            .current_dir(&tls)
            .output()?;
        ensure!(
            output.status.success(),
            "openssl {line}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Adds a listener with TLS and SASL; the test itself uses the plaintext one.
async fn secure_kafka(services: &mut Services, folder: &Path, port: u16) -> Result<()> {
    let tls = folder.join("tls");
    let chain = ["server.key", "server.crt"].map(|file| fs::read_to_string(tls.join(file)));
    let [key, certificate] = chain;
    fs::write(tls.join("server.pem"), key? + &certificate?)?;
    let properties = folder.join("kafka/server.properties");
    let text = fs::read_to_string(&properties)?;
    let property = |name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value
            .map(str::to_owned)
            .with_context(|| format!("{name} is not set"))
    };
    let (listeners, advertised) = (property("listeners")?, property("advertised.listeners")?);
    services.kafka.stop().await?;
    let mut file = OpenOptions::new().append(true).open(&properties)?;
    write!(
        file,
        "listeners={listeners},SASL_SSL://127.0.0.1:{port}
advertised.listeners={advertised},SASL_SSL://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_ssl.plain.sasl.jaas.config=\
         org.apache.kafka.common.security.plain.PlainLoginModule required user_orders=\"{PASSWORD}\";
ssl.keystore.type=PEM
ssl.keystore.location={}
",
        tls.join("server.pem").display()
    )?;
    services.kafka.start().await
}

/// Enables TLS, and creates a login for the worker.
async fn secure_postgres(pipeline: &Pipeline, folder: &Path) -> Result<()> {
    let data = folder.join("postgres/data");
    let owner = fs::metadata(&data)?;
    for file in ["server.crt", "server.key"] {
        let copy = data.join(file);
        fs::copy(folder.join("tls").join(file), &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600))?;
        chown(&copy, Some(owner.uid()), Some(owner.gid()))?;
    }
    let login = format!("CREATE ROLE orders LOGIN PASSWORD '{PASSWORD}'");
    for statement in [
        login.as_str(),
        "GRANT streamstage_worker TO orders",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    ] {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        sqlx::raw_sql(statement).execute(pipeline.pool()).await?;
    }
    Ok(())
}

/// Adds a port with TLS, and a user with a password; the test itself uses the plaintext port.
async fn secure_redis(services: &Services, folder: &Path, port: u16) -> Result<()> {
    let client = redis::Client::open(services.redis_url(0))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let tls = |file: &str| folder.join("tls").join(file).display().to_string();
    let user = format!("ACL SETUSER orders on >{PASSWORD} ~* +@all");
    let set = format!(
        "CONFIG SET tls-cert-file {} tls-key-file {} tls-ca-cert-file {} tls-auth-clients no tls-port {port}",
        tls("server.crt"),
        tls("server.key"),
        tls("ca.crt")
    );
    for command in [user, set] {
        let mut words = command.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query_async::<()>(&mut connection).await?;
    }
    Ok(())
}

/// Sets the TLS ports and a secret per dependency in the stage file.
fn configure_stage(pipeline: &mut Pipeline, services: &Services, [kafka, redis]: [u16; 2]) -> Result<()> {
    let plain = services.redis_url(0);
    let plain = plain.trim_end_matches('0').to_owned();
    for (from, to) in [
        (
            services.bootstrap_servers().to_owned(),
            format!("127.0.0.1:{kafka}"),
        ),
        (
            "  source:\n".to_owned(),
            "  source:\n    authSecretName: kafka\n".to_owned(),
        ),
        (
            "  referenceData:\n".to_owned(),
            "  referenceData:\n    authSecretName: redis\n".to_owned(),
        ),
        (plain, format!("rediss://127.0.0.1:{redis}/")),
        (
            "    sslMode: disable ".to_owned(),
            "    authSecretName: postgres\n    sslMode: verify-full ".to_owned(),
        ),
    ] {
        pipeline.edit(&from, &to)?;
    }
    Ok(())
}

/// Writes a folder per secret and a file per key; the secret `wrong`, if any, gets a wrong password.
fn write_secrets(folder: &Path, wrong: Option<&str>) -> Result<()> {
    for secret in ["kafka", "postgres", "redis"] {
        let keys = folder.join("secrets").join(secret);
        fs::create_dir_all(&keys)?;
        fs::copy(folder.join("tls/ca.crt"), keys.join("ca.crt"))?;
        fs::write(keys.join("username"), "orders\n")?;
        let password = if wrong == Some(secret) {
            WRONG_PASSWORD
        } else {
            PASSWORD
        };
        fs::write(keys.join("password"), password)?;
    }
    Ok(())
}

/// Picks a free port below the system's range of client ports.
fn pick_free_port() -> Result<u16> {
    let candidates = std::iter::repeat_with(|| rand::random_range(20_000..32_000)).take(100);
    let mut free = candidates.filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().context("no free port")
}
