//! `dsr info`: what this build and machine have.

use std::thread::available_parallelism;

use crate::device::Isa;
use crate::{data, models, recipes};

use super::{DONE, Global, Output, say};

/// Prints version, processor, data sets, networks and recipes.
///
/// # Errors
/// None so far.
pub fn run(global: &Global) -> anyhow::Result<u8> {
    let isa = |isa: &Isa| format!("{isa:?}").to_lowercase();
    let sets: Vec<String> = Isa::available().iter().map(isa).collect();
    let threads = global.threads.or(available_parallelism().ok()).map_or(1, usize::from);
    let (version, build) = (env!("CARGO_PKG_VERSION"), if cfg!(debug_assertions) { "debug" } else { "release" });
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let info = serde_json::json!({
        "version": version,
        "build": build,
        "target": target,
        "devices": ["cpu"],
        "instruction_sets": sets,
        "instruction_set": isa(&Isa::detect()),
        "cpu_features": cpu_features(),
        "threads": threads,
        "datasets": data::names(),
        "models": models::names(),
        "recipes": recipes::names(),
    });
    if global.output == Output::Json {
        say(&info.to_string());
        return Ok(DONE);
    }
    let rows = [
        ("version", format!("{version} ({build}, {target})")),
        ("devices", "cpu".into()),
        ("CPU features", cpu_features().join(" ")),
        ("instruction set", format!("{} (of {})", isa(&Isa::detect()), sets.join(", "))),
        ("threads", threads.to_string()),
        ("data sets", data::names().join(", ")),
        ("networks", models::names().join(", ")),
        ("recipes", recipes::names().join(", ")),
    ];
    rows.iter().for_each(|(name, value)| say(&format!("{name:16} {value}")));
    Ok(DONE)
}

/// Features of this processor that the inner loops use or may come to use.
fn cpu_features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("popcnt", is_x86_feature_detected!("popcnt")),
            ("bmi2", is_x86_feature_detected!("bmi2")),
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512bw", is_x86_feature_detected!("avx512bw")),
            ("avx512dq", is_x86_feature_detected!("avx512dq")),
            ("avx512vl", is_x86_feature_detected!("avx512vl")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ];
        features.iter().filter(|f| f.1).map(|f| f.0).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}
