//! The smallest program of each architecture: it ends at once, with success.
//!
//! Whether an engine can run a platform is proved by running something there, and that something must not have
//! to be pulled. So it is written here: an ELF header, one segment, and the system call `exit(0)` (System V
//! ABI, "Object Files"; Linux' system call numbers per architecture). A variant that has more instructions than
//! its architecture begins with one of them, so that a CPU without it is told apart.

use farm_types::Platform;

/// Where it is loaded: a multiple of the largest page size.
const BASE: u32 = 0x0040_0000;
const PAGE: u32 = 0x1_0000;

/// What differs between architectures.
struct Machine {
    /// `e_machine`.
    id: u16,
    /// `e_flags`.
    flags: u32,
    wide: bool,
    big_endian: bool,
    code: Vec<u8>,
}

/// A static executable for this platform that exits with 0, some 150 bytes. `None` when farm knows no code for
/// it: such a platform can only be told (`--platforms`), not probed.
pub fn probe_executable(platform: &Platform) -> Option<Vec<u8>> {
    machine(platform).map(|machine| write(&machine))
}

fn machine(platform: &Platform) -> Option<Machine> {
    let little = |id, wide, flags, code| Machine { id, flags, wide, big_endian: false, code };
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    Some(match (platform.architecture(), platform.variant()) {
        ("amd64", variant) => {
            let mut code = match variant {
                "" => vec![],
                "v2" => vec![0xf3, 0x0f, 0xb8, 0xc0], // popcnt eax, eax
                "v3" => vec![0xc4, 0xe2, 0x7d, 0x1c, 0xc0], // vpabsb ymm0, ymm0
                "v4" => vec![0x62, 0xf2, 0xfd, 0x48, 0x1f, 0xc0], // vpabsq zmm0, zmm0
                _ => return None,
            };
            // mov eax, 60; xor edi, edi; syscall
            code.extend([0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05]);
            little(62, true, 0, code)
        }
        // mov eax, 1; xor ebx, ebx; int 0x80
        ("386", "") => little(3, false, 0, vec![0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80]),
        // mov x0, #0; mov x8, #93; svc #0
        ("arm64", "") => little(183, true, 0, words(&[0xd280_0000, 0xd280_0ba8, 0xd400_0001])),
        ("arm", variant) => {
            let zero = match variant {
                "v5" | "v6" => 0xe3a0_0000, // mov r0, #0
                "v7" => 0xe300_0000,        // movw r0, #0
                _ => return None,
            };
            // …; mov r7, #1; svc #0. The flags say: EABI version 5.
            little(40, false, 0x0500_0000, words(&[zero, 0xe3a0_7001, 0xef00_0000]))
        }
        // li a0, 0; li a7, 93; ecall
        ("riscv64", "") => little(243, true, 0, words(&[0x0000_0513, 0x05d0_0893, 0x0000_0073])),
        // li r0, 1; li r3, 0; sc. The flags say: ELFv2.
        ("ppc64le", "") => little(21, true, 2, words(&[0x3800_0001, 0x3860_0000, 0x4400_0002])),
        // or a0, zero, zero; addi.w a7, zero, 93; syscall 0. The flags say: object ABI 1, soft float.
        ("loong64", "") => little(258, true, 0x41, words(&[0x0015_0004, 0x0281_740b, 0x002b_0000])),
        // lghi %r2, 0; svc 1
        ("s390x", "") => {
            let code = vec![0xa7, 0x29, 0, 0, 0x0a, 1];
            Machine { id: 22, flags: 0, wide: true, big_endian: true, code }
        }
        _ => return None,
    })
}

/// A file of growing length, in the machine's byte order and word size.
struct Writer<'a> {
    machine: &'a Machine,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    fn half(&mut self, value: u16) {
        let (big, little) = (value.to_be_bytes(), value.to_le_bytes());
        self.bytes.extend(if self.machine.big_endian { big } else { little });
    }

    fn word(&mut self, value: u32) {
        let (big, little) = (value.to_be_bytes(), value.to_le_bytes());
        self.bytes.extend(if self.machine.big_endian { big } else { little });
    }

    /// An address, offset or size: 32 or 64 bits.
    fn natural(&mut self, value: u32) {
        let high_first = self.machine.big_endian;
        match (self.machine.wide, high_first) {
            (false, _) => self.word(value),
            (true, true) => {
                self.word(0);
                self.word(value);
            }
            (true, false) => {
                self.word(value);
                self.word(0);
            }
        }
    }
}

fn write(machine: &Machine) -> Vec<u8> {
    let (header, segment): (u16, u16) = if machine.wide { (64, 56) } else { (52, 32) };
    let start = u32::from(header) + u32::from(segment);
    let length = start + u32::try_from(machine.code.len()).unwrap_or(0);
    let (class, order) = (if machine.wide { 2 } else { 1 }, if machine.big_endian { 2 } else { 1 });
    let mut w = Writer { machine, bytes: vec![0x7f, b'E', b'L', b'F', class, order, 1, 0] };
    w.bytes.extend([0; 8]);
    w.half(2); // ET_EXEC
    w.half(machine.id);
    w.word(1); // EV_CURRENT
    w.natural(BASE + start); // e_entry
    w.natural(u32::from(header)); // e_phoff
    w.natural(0); // e_shoff
    w.word(machine.flags);
    w.half(header);
    w.half(segment);
    w.half(1); // e_phnum
    for _ in 0..3 {
        w.half(0); // no sections
    }
    const READ_EXECUTE: u32 = 5;
    w.word(1); // PT_LOAD
    if machine.wide {
        w.word(READ_EXECUTE);
    }
    w.natural(0); // p_offset
    w.natural(BASE); // p_vaddr
    w.natural(BASE); // p_paddr
    w.natural(length); // p_filesz
    w.natural(length); // p_memsz
    if !machine.wide {
        w.word(READ_EXECUTE);
    }
    w.natural(PAGE); // p_align
    w.bytes.extend(&machine.code);
    w.bytes
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    const ALL: &[(&str, &str)] = &[
        ("linux/amd64", "x86_64"),
        ("linux/386", "i386"),
        ("linux/arm64", "aarch64"),
        ("linux/arm/v5", "arm"),
        ("linux/arm/v6", "arm"),
        ("linux/arm/v7", "arm"),
        ("linux/riscv64", "riscv64"),
        ("linux/ppc64le", "ppc64le"),
        ("linux/s390x", "s390x"),
        ("linux/loong64", "loongarch64"),
    ];

    #[test]
    fn each_is_an_executable_of_its_word_size_and_order() {
        for (platform, _) in ALL {
            let platform: Platform = platform.parse().unwrap();
            let bytes = probe_executable(&platform).unwrap();
            let machine = machine(&platform).unwrap();
            assert_eq!(bytes[..4], *b"\x7fELF");
            assert_eq!(bytes.len(), if machine.wide { 120 } else { 84 } + machine.code.len(), "{platform}");
            assert!(bytes.ends_with(&machine.code));
        }
        assert!(probe_executable(&"linux/mips64le".parse().unwrap()).is_none());
    }

    /// Runs those that this machine can run: natively, or by an emulator that is installed.
    #[test]
    fn each_exits_with_success_where_it_can_be_run() {
        let folder = tempfile::tempdir().unwrap();
        for (platform, qemu) in ALL {
            let program = folder.path().join(platform.replace('/', "-"));
            fs::write(&program, probe_executable(&platform.parse().unwrap()).unwrap()).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let emulator = format!("/usr/bin/qemu-{qemu}-static");
            let mut command = if cfg!(target_arch = "x86_64") && *qemu == "x86_64" {
                Command::new(&program)
            } else if Path::new(&emulator).exists() {
                let mut command = Command::new(&emulator);
                command.arg(&program);
                command
            } else {
                eprintln!("{platform} is not run: {emulator} is not installed");
                continue;
            };
            let output = command.output().unwrap();
            assert!(output.status.success(), "{platform}: {output:?}");
        }
    }
}
