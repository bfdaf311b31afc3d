//! Services that want TLS and a login: the worker takes both from its secrets, and a refusal names the secret.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: makes certificates, and asks Redis and PostgreSQL to use them"
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
const WRONG: &str = "close-sesame-8";
const WITHIN: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reaches_services_with_tls_and_login() -> Result<()> {
    let mut services = Services::start(&Options::default()).await?;
    let folder = services
        .folder()
        .context("the services have a folder")?
        .to_owned();
    let mut generator = Generator::new(&Settings::default());
    let messages: Vec<_> = generator.history(ORDERS).collect();
    certificates(&folder)?;
    let ports = [free_port()?, free_port()?];
    secure_kafka(&mut services, &folder, ports[0]).await?;
    let mut pipeline = Pipeline::create(&services, "security", 2).await?;
    pipeline.load_dictionary(&generator, 0).await?;
    pipeline.produce(1, messages.into_iter()).await?;
    secure_postgres(&pipeline, &folder).await?;
    secure_redis(&services, &folder, ports[1]).await?;
    point_at_secrets(&mut pipeline, &services, ports)?;

    let secrets = folder.join("secrets");
    let flags = ["--secrets-dir", secrets.to_str().context("a path in UTF-8")?];
    for (secret, service) in [
        ("kafka", "source"),
        ("postgres", "warehouse"),
        ("redis", "dictionary"),
    ] {
        write_secrets(&folder, Some(secret))?;
        refused(&pipeline, &flags, secret, service).await?;
    }
    write_secrets(&folder, None)?;
    let worker = pipeline.worker_with(&["stg"], &flags)?;
    let stored = "SELECT count(*) FROM stg.order_events";
    let deadline = Instant::now() + WITHIN;
    while pipeline.query::<i64>(stored).await? < i64::try_from(ORDERS)? {
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
        pipeline.query::<bool>(encrypted).await?,
        "PostgreSQL sees a plain connection"
    );
    ensure!(!worker.log().contains(PASSWORD), "the password is in the log");
    Ok(())
}

/// With one wrong password the worker is not ready; it says which secret to look at, and never what is in it.
async fn refused(pipeline: &Pipeline, flags: &[&str], secret: &str, service: &str) -> Result<()> {
    let worker = pipeline.worker_with(&["stg"], flags)?;
    let field = match secret {
        "kafka" => "spec.source.authSecret",
        "postgres" => "spec.warehouse.authSecret",
        _ => "spec.dictionary.authSecret",
    };
    let (_, line) = worker.logged(field).await?;
    ensure!(
        line.to_lowercase().contains(service),
        "blames another service: {line}"
    );
    for word in [PASSWORD, WRONG] {
        ensure!(!worker.log().contains(word), "a password is in the log");
    }
    Ok(())
}

/// `ca.crt`, and `server.crt` with `server.key` for 127.0.0.1, signed by it.
fn certificates(folder: &Path) -> Result<()> {
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

/// Adds a listener with TLS and a login; the plain one stays for the test itself.
async fn secure_kafka(services: &mut Services, folder: &Path, port: u16) -> Result<()> {
    let tls = folder.join("tls");
    let chain = ["server.key", "server.crt"].map(|file| fs::read_to_string(tls.join(file)));
    let [key, certificate] = chain;
    fs::write(tls.join("server.pem"), key? + &certificate?)?;
    let properties = folder.join("kafka/server.properties");
    let text = fs::read_to_string(&properties)?;
    let line = |name: &str| {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found
            .map(str::to_owned)
            .with_context(|| format!("{name} is not set"))
    };
    let (listeners, advertised) = (line("listeners")?, line("advertised.listeners")?);
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

/// Turns TLS on, and makes a login that has to use it.
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

/// A second port with TLS, and a user that has to log in; the plain one stays for the test itself.
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
    for line in [user, set] {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query_async::<()>(&mut connection).await?;
    }
    Ok(())
}

/// The stage `stg` names the secured ports, and a secret for each service.
fn point_at_secrets(pipeline: &mut Pipeline, services: &Services, [kafka, redis]: [u16; 2]) -> Result<()> {
    let plain = services.redis_url(0);
    let plain = plain.trim_end_matches('0').to_owned();
    for (from, to) in [
        (
            services.bootstrap_servers().to_owned(),
            format!("127.0.0.1:{kafka}"),
        ),
        (
            "  source:\n".to_owned(),
            "  source:\n    authSecret: kafka\n".to_owned(),
        ),
        (
            "  dictionary:\n".to_owned(),
            "  dictionary:\n    authSecret: redis\n".to_owned(),
        ),
        (plain, format!("rediss://127.0.0.1:{redis}/")),
        (
            "  warehouse:\n".to_owned(),
            "  warehouse:\n    authSecret: postgres\n    sslMode: verify-full\n".to_owned(),
        ),
    ] {
        pipeline.edit(&from, &to)?;
    }
    Ok(())
}

/// A folder per secret, a file per key; one of them, if named, with a wrong password.
fn write_secrets(folder: &Path, wrong: Option<&str>) -> Result<()> {
    for secret in ["kafka", "postgres", "redis"] {
        let keys = folder.join("secrets").join(secret);
        fs::create_dir_all(&keys)?;
        fs::copy(folder.join("tls/ca.crt"), keys.join("ca.crt"))?;
        fs::write(keys.join("username"), "orders\n")?;
        let password = if wrong == Some(secret) { WRONG } else { PASSWORD };
        fs::write(keys.join("password"), password)?;
    }
    Ok(())
}

/// Below those that the system gives to clients.
fn free_port() -> Result<u16> {
    let tried = std::iter::repeat_with(|| rand::random_range(20_000..32_000)).take(100);
    let mut free = tried.filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().context("no free port")
}
