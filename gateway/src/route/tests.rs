use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 8000))
}

fn pod(tier: Tier, host: u8) -> Contestant {
    Contestant {
        tier,
        pod: address(host),
        standing: Standing::In,
        full_for: None,
        load: 0,
    }
}

fn primary(host: u8) -> Contestant {
    pod(Tier::Primary, host)
}

fn fallback(host: u8) -> Contestant {
    pod(Tier::Fallback, host)
}

fn suspect(pod: Contestant) -> Contestant {
    Contestant {
        standing: Standing::Suspect,
        ..pod
    }
}

fn out(pod: Contestant) -> Contestant {
    Contestant {
        standing: Standing::Out,
        ..pod
    }
}

fn full(pod: Contestant, time: Duration) -> Contestant {
    Contestant {
        full_for: Some(time),
        ..pod
    }
}

fn loaded(pod: Contestant, load: usize) -> Contestant {
    Contestant { load, ..pod }
}

fn journey(first: Tier) -> Journey {
    Journey::new(Tier::ALL.to_vec(), first, MOST_BODIES)
}

fn hosts(order: &[Candidate]) -> Vec<u8> {
    let host = |candidate: &Candidate| match candidate.pod.ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    };
    order.iter().map(host).collect()
}

fn order(journey: &mut Journey, pods: &[Contestant]) -> Vec<u8> {
    hosts(&journey.next(pods, |_| 0))
}

#[test]
fn the_first_tier_is_asked_before_the_other() {
    let pods = [primary(1), primary(2), fallback(3), fallback(4)];
    assert_eq!(order(&mut journey(Tier::Fallback), &pods), [3, 4, 1, 2]);
    assert_eq!(order(&mut journey(Tier::Primary), &pods), [1, 2, 3, 4]);
}

#[test]
fn the_pod_with_the_fewest_requests_is_first() {
    let pods = [loaded(primary(1), 2), loaded(primary(2), 1), primary(3)];
    assert_eq!(order(&mut journey(Tier::Primary), &pods), [3, 2, 1]);
}

#[test]
fn equals_take_turns() {
    let pods = [primary(1), primary(2), loaded(primary(3), 1)];
    let first = |turn| hosts(&journey(Tier::Primary).next(&pods, |_| turn));
    assert_eq!(
        [first(0), first(1), first(2)],
        [[1, 2, 3], [2, 1, 3], [1, 2, 3]]
    );
}

#[test]
fn a_pinned_request_never_leaves_its_tier() {
    let mut pinned = Journey::new(vec![Tier::Fallback], Tier::Primary, MOST_BODIES);
    assert_eq!(order(&mut pinned, &[primary(1), fallback(2)]), [2]);
}

#[test]
fn a_pod_that_did_not_take_its_last_connection_comes_after_those_of_both_tiers_that_did() {
    let pods = [
        suspect(primary(1)),
        primary(2),
        suspect(fallback(3)),
        fallback(4),
    ];
    assert_eq!(order(&mut journey(Tier::Primary), &pods), [2, 4, 1, 3]);
}

#[test]
fn never_more_than_half_of_a_tier_is_left_out() {
    let pods: Vec<_> = (1..=5).map(|host| out(primary(host))).collect();
    assert_eq!(order(&mut journey(Tier::Primary), &pods).len(), 3);
    let one = [out(primary(1))];
    assert_eq!(order(&mut journey(Tier::Primary), &one), [1]);
    let mut most = vec![primary(9)];
    most.extend((1..=4).map(|host| out(primary(host))));
    assert_eq!(order(&mut journey(Tier::Primary), &most), [9, 1, 2]);
    assert_eq!([out_of_rotation(5, 4), out_of_rotation(1, 1)], [2, 0]);
}

#[test]
fn the_other_tier_is_asked_at_once_when_all_of_a_tier_are_out() {
    let pods = [out(primary(1)), out(primary(2)), fallback(3)];
    assert_eq!(order(&mut journey(Tier::Primary), &pods), [3, 1]);
}

#[test]
fn a_full_pod_is_not_asked_and_the_shortest_wait_is_known() {
    let mut journey = journey(Tier::Primary);
    let pods = [full(primary(1), SECOND * 7), full(fallback(2), SECOND * 3)];
    assert!(order(&mut journey, &pods).is_empty());
    assert_eq!(journey.full_for(), Some(SECOND * 3));
}

#[test]
fn a_pod_out_of_rotation_is_no_resort_while_another_is_merely_full() {
    let pods = [full(primary(1), SECOND), out(primary(2)), out(primary(3))];
    assert!(order(&mut journey(Tier::Primary), &pods).is_empty());
}

#[test]
fn no_pod_is_asked_twice_and_three_are_the_most() {
    let mut journey = journey(Tier::Primary);
    let pods: Vec<_> = (1..=6).map(primary).collect();
    let mut asked = Vec::new();
    while journey.goes_on() {
        let next = journey.next(&pods, |_| 0)[0].pod;
        journey.declined(next, false);
        asked.push(next);
    }
    assert_eq!(asked, [address(1), address(2), address(3)]);
}

#[test]
fn two_pods_get_the_body_at_the_most() {
    let mut journey = journey(Tier::Primary);
    journey.declined(address(1), true);
    assert!(journey.goes_on());
    journey.declined(address(2), true);
    assert!(!journey.goes_on());
    let mut trial = Journey::new(Tier::ALL.to_vec(), Tier::Primary, 1);
    trial.declined(address(1), true);
    assert!(!trial.goes_on());
}

#[test]
fn a_pod_that_came_meanwhile_is_asked() {
    let mut journey = journey(Tier::Primary);
    journey.declined(address(1), true);
    assert!(order(&mut journey, &[primary(1)]).is_empty());
    assert_eq!(order(&mut journey, &[primary(1), primary(5)]), [5]);
}

fn contestant() -> impl Strategy<Value = Contestant> {
    let standing = prop_oneof![
        Just(Standing::In),
        Just(Standing::Suspect),
        Just(Standing::Out)
    ];
    let full =
        prop_oneof![3 => Just(None), 1 => (1..60_u64).prop_map(|s| Some(Duration::from_secs(s)))];
    (any::<bool>(), any::<u8>(), standing, full, 0..4_usize).prop_map(
        |(is_primary, host, standing, full_for, load)| Contestant {
            tier: Tier::ALL[usize::from(!is_primary)],
            pod: address(host),
            standing,
            full_for,
            load,
        },
    )
}

proptest! {
    #[test]
    fn whatever_pods_do_a_request_stays_within_its_bounds(
        rounds in prop::collection::vec((prop::collection::vec(contestant(), 0..12), any::<bool>()), 1..12),
        turn in 0..9_usize,
    ) {
        let mut journey = journey(Tier::Primary);
        let (mut reached, mut bodies) = (HashSet::new(), 0);
        for (pods, body_sent) in rounds {
            if !journey.goes_on() {
                break;
            }
            let order = journey.next(&pods, |_| turn);
            let distinct: HashSet<_> = order.iter().map(|candidate| candidate.pod).collect();
            let open: HashSet<_> = pods.iter().filter(|pod| pod.full_for.is_none()).map(|pod| pod.pod).collect();
            prop_assert!(distinct.is_subset(&open));
            prop_assert!(distinct.is_disjoint(&reached));
            if let Some(next) = order.first() {
                journey.declined(next.pod, body_sent);
                reached.insert(next.pod);
                bodies += usize::from(body_sent);
            }
        }
        prop_assert!(reached.len() <= MOST_PODS && bodies <= MOST_BODIES);
    }

    #[test]
    fn a_pod_in_rotation_that_is_not_full_is_always_asked_first(pods in prop::collection::vec(contestant(), 0..12)) {
        let best = pods.iter().any(|pod| pod.standing == Standing::In && pod.full_for.is_none());
        let order = journey(Tier::Primary).next(&pods, |_| 0);
        if best {
            let first = order[0];
            let is_in = |pod: &Contestant| pod.pod == first.pod && pod.tier == first.tier && pod.standing == Standing::In;
            prop_assert!(pods.iter().any(is_in));
        }
    }
}
