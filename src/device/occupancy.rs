//! How many warps of a kernel a multiprocessor can hold, from its registers, threads and shared memory.

/// Registers of a multiprocessor; the same on all targets, a quarter of them in each of its four partitions.
const REGISTERS: u32 = 65536;
const PARTITIONS: u32 = 4;
const WARP: u32 = 32;
/// Registers are given to a warp, and shared memory to a block, in multiples of these.
const REGISTER_UNIT: u32 = 256;
const SHARED_UNIT: u32 = 128;
/// Shared memory that the system takes of every block.
const SHARED_RESERVED: u32 = 1024;

/// What a multiprocessor can hold at once.
struct Multiprocessor {
    warps: u32,
    blocks: u32,
    /// Bytes of shared memory for all its blocks.
    shared: u32,
}

/// By compute capability (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
fn multiprocessor(target: &str) -> Option<Multiprocessor> {
    let digits = target.strip_prefix("sm_").unwrap_or(target).trim_end_matches(char::is_alphabetic);
    let (warps, blocks, kib) = match digits {
        "80" => (64, 32, 164),
        "86" => (48, 16, 100),
        "89" => (48, 24, 100),
        "90" | "100" => (64, 32, 228),
        "120" => (48, 24, 100),
        _ => return None,
    };
    Some(Multiprocessor { warps, blocks, shared: kib << 10 })
}

/// Share of the warps of a multiprocessor that blocks of `threads` threads fill, 0 if not one block fits.
/// `shared_bytes` are those of a block, static and dynamic. None for a target without known limits.
pub fn occupancy(target: &str, threads: u32, registers: u32, shared_bytes: u32) -> Option<f64> {
    let limits = multiprocessor(target)?;
    let warps = threads.div_ceil(WARP).max(1);
    let registers_of_warp = (registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS / PARTITIONS / registers_of_warp * PARTITIONS / warps;
    let by_shared = limits.shared / (shared_bytes.next_multiple_of(SHARED_UNIT) + SHARED_RESERVED);
    let blocks = limits.blocks.min(limits.warps / warps).min(by_registers).min(by_shared);
    Some(f64::from(blocks * warps) / f64::from(limits.warps))
}

#[cfg(test)]
mod tests {
    use super::occupancy;

    #[test]
    fn matches_known_values() {
        // (target, threads, registers, shared bytes, occupancy); what limits it.
        let cases = [
            ("sm_80", 128, 37, 0, 0.75),          // the first two are the example of the CUDA Best Practices Guide
            ("sm_80", 320, 37, 0, 0.625),         //
            ("sm_80", 256, 32, 0, 1.0),           // nothing
            ("sm_80", 256, 33, 0, 0.75),          // 33 registers cost what 40 do
            ("sm_80", 256, 255, 0, 0.125),        // registers: one block
            ("sm_80", 512, 255, 0, 0.0),          // registers: no block
            ("sm_80", 32, 16, 0, 0.5),            // blocks
            ("sm_86", 32, 16, 0, 1.0 / 3.0),      // blocks: 16 of one warp
            ("sm_89", 32, 16, 0, 0.5),            // blocks: 24 of one warp
            ("sm_86", 256, 40, 0, 1.0),           // 48 warps are all there are
            ("sm_86", 1024, 32, 0, 2.0 / 3.0),    // warps: a second block of 32 has no room
            ("sm_80", 256, 32, 81 << 10, 0.25),   // shared memory: two blocks, exactly
            ("sm_80", 256, 32, 82 << 10, 0.125),  // shared memory: the reserved KiB is too much for the second
            ("sm_90", 256, 32, 227 << 10, 0.125), // the largest block
            ("sm_90", 256, 32, 228 << 10, 0.0),   //
            ("sm_100", 128, 64, 0, 0.5),          // registers
            ("sm_120", 128, 64, 0, 2.0 / 3.0),    // registers: 32 of 48 warps
        ];
        let wrong: Vec<_> = cases.iter().filter(|c| occupancy(c.0, c.1, c.2, c.3) != Some(c.4)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(occupancy("sm_35", 32, 32, 0), None);
    }
}
