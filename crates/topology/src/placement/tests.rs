use super::*;
use crate::membership::{PlacementNode, Weight};
use crate::plan::Plan;
use crate::{NodeId, ZoneName};

fn node(n: usize, zones: usize, weight: u32) -> PlacementNode {
    PlacementNode {
        id: NodeId::new(&format!("n{n}")).unwrap(),
        zone: ZoneName::new(&format!("z{}", n % zones)).unwrap(),
        weight: Weight::new(weight).unwrap(),
    }
}
fn params(q: u32, r: u8) -> PlacementParams {
    PlacementParams {
        partitions: PartitionCount::new(q).unwrap(),
        replicas: r,
        epsilon_ppm: 50_000,
        algorithm: Algorithm::Balanced,
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "scratch")]
fn scratch() {
    for (n, q, tok) in [
        (50, 65536, false),
        (200, 65536, false),
        (1000, 65536, false),
        (1000, 1 << 18, false),
        (200, 65536, true),
    ] {
        let m = Membership::new((0..n).map(|i| node(i, 3, 1)));
        let p = PlacementParams {
            algorithm: if tok { Algorithm::Tokens(256) } else { Algorithm::Balanced },
            ..params(q, 3)
        };
        let t = std::time::Instant::now();
        let before = Placement::whole(p, &m);
        let whole = t.elapsed();
        let mut after = before.clone();
        let m2 = m.with(node(n, 3, 1));
        let t = std::time::Instant::now();
        after.update(&m2);
        let join = t.elapsed();
        assert_eq!(after.owners, Placement::whole(p, &m2).owners);
        let plan = Plan::between(&before, &after);
        let t = std::time::Instant::now();
        let mut left = before.clone();
        let t0 = t.elapsed();
        let t = std::time::Instant::now();
        left.update(&m.without(&NodeId::new("n7").unwrap()));
        let leave = t.elapsed();
        assert_eq!(left.owners, Placement::whole(p, left.membership()).owners);
        let plan2 = Plan::between(&before, &left);
        let loads = before.loads();
        let maxc =
            loads.iter().map(|l| l.copies as f64 / l.copies_fair_millionths as f64 * 1e6).fold(0.0, f64::max);
        let maxp = loads
            .iter()
            .map(|l| l.primaries as f64 / l.primaries_fair_millionths as f64 * 1e6)
            .fold(0.0, f64::max);
        println!(
            "N={n} Q={q} whole {whole:?} join {join:?} leave {leave:?} clone {t0:?} balance {maxc:.3} {maxp:.3} join {:.3} {:.3} leave {:.3} {:.3} overflow {}",
            plan.copies.ratio(),
            plan.primaries.ratio(),
            plan2.copies.ratio(),
            plan2.primaries.ratio(),
            before.overflows()
        );
    }
}

#[test]
fn scratch_moves() {
    for (n, q, times) in [(50, 65536, 12), (200, 65536, 12), (200, 1 << 14, 5), (1000, 1 << 18, 4)] {
        let m = Membership::new((0..n).map(|i| node(i, 3, 1)));
        let p = params(q, 3);
        let before = Placement::whole(p, &m);
        let mut sums = [0.0; 4];
        let mut worst = [0.0f64; 4];
        let mut order = [0.0f64; 2];
        for t in 0..times {
            let mut a = before.clone();
            a.update(&m.with(node(n + t * 3, 3, 1)));
            let mut b = before.clone();
            b.update(&m.without(&NodeId::new(&format!("n{}", t * 4 + 1)).unwrap()));
            let (x, y) = (Plan::between(&before, &a), Plan::between(&before, &b));
            for (i, r) in [x.copies.ratio(), x.primaries.ratio(), y.copies.ratio(), y.primaries.ratio()]
                .into_iter()
                .enumerate()
            {
                sums[i] += r / times as f64;
                worst[i] = worst[i].max(r);
            }
            for (i, pl) in [&a, &b].into_iter().enumerate() {
                let names = |p: &Placement, r: &[NodeIndex]| {
                    r.iter().map(|x| p.node_id(*x).unwrap().clone()).collect::<Vec<_>>()
                };
                let changed =
                    before.rows().zip(pl.rows()).filter(|(f, t)| names(&before, f) != names(pl, t)).count();
                order[i] += changed as f64 / q as f64 / times as f64;
            }
        }
        println!(
            "N={n} Q={q} {sums:.3?} worst {worst:.3?} rows changed {order:.4?}, min {:.4}",
            3.0 / n as f64
        );
    }
}
