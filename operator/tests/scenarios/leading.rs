//! The lease: who holds it works, until it cannot be sure any more.

use std::time::Duration;

use operator::leader::{Leadership, claim};
use tokio::time::timeout;

use crate::api_server::{ApiServer, Fault};

const LEASE: &str = "streamstage-operator";
/// Longer than a lease lasts.
const DEADLINE: Duration = Duration::from_secs(30);

async fn leader(server: &ApiServer) -> Leadership {
    let claimed = claim(server.client(), "orders", LEASE, "one").await;
    let mut leadership = claimed.expect("a claim");
    let held = timeout(DEADLINE, leadership.held()).await;
    held.expect("a lease in time").expect("a lease");
    leadership
}

async fn loses(server: &ApiServer, leadership: Leadership) {
    let lost = timeout(DEADLINE, leadership.lost()).await;
    lost.expect("the leader ends");
    server.heal();
}

fn fault(verb: &'static str, answer: Option<(u16, &'static str)>) -> Fault {
    Fault {
        verb,
        resource: "leases",
        times: usize::MAX,
        answer,
    }
}

#[tokio::test]
async fn a_leader_ends_when_the_api_server_no_longer_answers() {
    let server = ApiServer::start();
    let leadership = leader(&server).await;
    server.fail(fault("get", None));
    loses(&server, leadership).await;
}

#[tokio::test]
async fn a_leader_ends_when_its_renewals_fail() {
    let server = ApiServer::start();
    let leadership = leader(&server).await;
    server.fail(fault("patch", Some((500, "no leader of etcd"))));
    loses(&server, leadership).await;
}

#[tokio::test]
async fn a_leader_ends_when_the_lease_is_deleted_and_makes_it_anew_when_it_starts() {
    let server = ApiServer::start();
    let leadership = leader(&server).await;
    server.delete("leases", LEASE);
    loses(&server, leadership).await;
    assert!(server.get("leases", LEASE).is_none());
    leader(&server).await;
}

#[tokio::test]
async fn a_leader_goes_on_while_it_renews_the_lease() {
    let server = ApiServer::start();
    let leadership = leader(&server).await;
    let renewed =
        |server: &ApiServer| server.get("leases", LEASE).unwrap_or_default()["spec"]["renewTime"].clone();
    let first = renewed(&server);
    let renewals = async {
        let mut seen = first;
        for _ in 0..3 {
            let before = seen.clone();
            server.until(|server| renewed(server) != before).await;
            seen = renewed(&server);
        }
    };
    // Three renewals take longer than the lease lasts.
    tokio::select! {
        why = leadership.lost() => panic!("lost: {why}"),
        () = renewals => {}
    }
    leadership.release().await.expect("a lease that is given back");
    let lease = server.get("leases", LEASE).expect("a lease");
    assert!(lease["spec"]["holderIdentity"].is_null(), "{lease}");
}
