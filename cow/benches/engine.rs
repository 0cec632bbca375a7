//! What the engine's parts cost by themselves: `cargo bench -p cairn-cow`, in under a minute.
//!
//! No disk is in these figures: pools are in memory. What they are in a whole is measured by `benches/compare` and
//! `benches/growth`.

use std::hint::black_box;
use std::time::Duration;

use cairn_cow::bench::{Batch, Mapped, Stored};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Blocks of the volumes that are worked on: 4 GiB, whose map is far larger than a processor's caches.
const BLOCKS: u64 = 1 << 20;

/// Numbers that look random and repeat every run.
struct Scatter(u64);

impl Scatter {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn look_up(c: &mut Criterion) {
    let mapped = Mapped::new(BLOCKS).expect("a pool");
    let mut scatter = Scatter(1);
    c.bench_function("look up 4 KiB, random of 4 GiB", |b| {
        b.iter(|| black_box(mapped.look_up(scatter.below(mapped.blocks()))));
    });
}

fn publish(c: &mut Criterion) {
    let mapped = Mapped::new(BLOCKS).expect("a pool");
    let mut group = c.benchmark_group("publish");
    for blocks in [1, 32, 256] {
        group.throughput(Throughput::Elements(blocks));
        group.bench_function(BenchmarkId::from_parameter(format!("{blocks} blocks, random")), |b| {
            let mut scatter = Scatter(blocks);
            b.iter(|| {
                let lba = scatter.below(mapped.blocks()) / blocks * blocks;
                mapped.publish(lba, blocks as usize).expect("publishes");
            });
        });
    }
    group.finish();
}

fn fork(c: &mut Criterion) {
    let mut group = c.benchmark_group("fork");
    for present in [0, 1000] {
        let mapped = Mapped::new(256).expect("a pool");
        (0..present).for_each(|i| mapped.snapshot(format!("s{i}")).expect("a snapshot"));
        let tree = mapped.tree();
        group.bench_function(BenchmarkId::from_parameter(format!("{present} snapshots present")), |b| {
            b.iter_batched_ref(
                || tree.clone(),
                |tree| tree.fork("one-more").expect("forks"),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn diff(c: &mut Criterion) {
    let mut group = c.benchmark_group("diff");
    for changed in [0, 1000] {
        let mapped = Mapped::new(BLOCKS / 4).expect("a pool");
        mapped.snapshot("before".to_owned()).expect("a snapshot");
        let mut scatter = Scatter(3);
        for _ in 0..changed {
            mapped.publish(scatter.below(mapped.blocks()), 1).expect("publishes");
        }
        group.bench_function(BenchmarkId::from_parameter(format!("1 GiB, {changed} blocks changed")), |b| {
            b.iter(|| mapped.diff("before".to_owned()).expect("compares"));
        });
    }
    group.finish();
}

fn journal(c: &mut Criterion) {
    const RECORDS: usize = 64;
    let mut group = c.benchmark_group("journal batch of 64 writes");
    group.throughput(Throughput::Elements(RECORDS as u64));
    let mut batch = Batch::new(RECORDS);
    group.bench_function("append", |b| b.iter(|| batch.append()));
    group.bench_function("append and seal", |b| {
        b.iter(|| {
            batch.append();
            black_box(batch.seal())
        });
    });
    batch.append();
    batch.seal();
    group.bench_function("decode", |b| b.iter(|| black_box(batch.decode().expect("decodes"))));
    group.finish();
}

fn checksum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for kib in [4, 128] {
        let data: Vec<u8> = (0..kib * 1024_u32).map(|i| (i * 31) as u8).collect();
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{kib} KiB")), |b| {
            b.iter(|| crc32fast::hash(black_box(&data)));
        });
    }
    group.finish();
}

fn node(c: &mut Criterion) {
    let mut group = c.benchmark_group("node");
    for (name, mut stored) in [("leaf", Stored::leaf()), ("inner", Stored::inner())] {
        group.bench_function(BenchmarkId::new("encode", name), |b| b.iter(|| black_box(stored.encode())));
        group.bench_function(BenchmarkId::new("decode", name), |b| {
            b.iter(|| black_box(stored.decode().expect("decodes")));
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
}

criterion_group! {
    name = engine;
    config = short();
    targets = look_up, publish, fork, diff, journal, checksum, node
}
criterion_main!(engine);
