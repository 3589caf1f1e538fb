//! What types are, and where their members lie.

use std::cell::OnceCell;

use kdraw_linux::bytes::u32_at;

use super::Btf;

/// The most typedefs and qualifiers in a row, and structures within structures.
const MAX_DEPTH: u32 = 32;
/// The most members that one look-up visits, those of members without a name included.
const MAX_VISITED: u32 = 20_000;
/// Bytes that all types have.
const COMMON: usize = 12;

/// A type of one of the blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId {
    /// 0 is vmlinux's.
    blob: u16,
    number: u32,
}

impl TypeId {
    /// `void`.
    pub const VOID: Self = Self { blob: 0, number: 0 };
}

/// What a type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No type.
    Void,
    /// A whole number.
    Int {
        /// Bytes.
        size: u32,
        /// Whether it is signed.
        signed: bool,
        /// Whether it is `bool`.
        bool: bool,
    },
    /// A pointer.
    Pointer(TypeId),
    /// An array.
    Array {
        /// Of what.
        element: TypeId,
        /// How many; 0 for one of any length.
        count: u32,
    },
    /// A structure.
    Struct {
        /// Bytes.
        size: u32,
    },
    /// A union.
    Union {
        /// Bytes.
        size: u32,
    },
    /// An enumeration.
    Enum {
        /// Bytes.
        size: u32,
        /// Whether its values are signed.
        signed: bool,
    },
    /// A structure or union of which nothing is known.
    Forward,
    /// Another name of a type.
    Typedef(TypeId),
    /// `const`, `volatile`, `restrict`, or a tag.
    Qualifier(&'static str, TypeId),
    /// A function's name.
    Function(TypeId),
    /// A function's signature: what it returns.
    Prototype(TypeId),
    /// A variable.
    Variable(TypeId),
    /// A section with variables.
    Section,
    /// A floating-point number.
    Float {
        /// Bytes.
        size: u32,
    },
    /// A remark on a declaration.
    Remark,
}

/// A type.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    /// Its name; empty if it has none.
    pub name: &'a str,
    /// What it is.
    pub kind: Kind,
    /// What its kind adds.
    extra: &'a [u8],
    /// How many members, values or variables.
    count: usize,
    /// `kind_flag`.
    flag: bool,
    blob: u16,
}

/// A member of a structure or union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name; empty if it has none.
    pub name: &'a str,
    /// Its type.
    pub ty: TypeId,
    /// Bits from the structure's start.
    pub bit_offset: u32,
    /// How many bits, of a bit field.
    pub bits: Option<u32>,
}

/// Where something inside a type lies, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its type.
    pub ty: TypeId,
    /// Bits from the start.
    pub bit_offset: u64,
    /// How many bits, of a bit field.
    pub bits: Option<u32>,
}

impl Field {
    /// Bytes from the start.
    pub fn offset(&self) -> u64 {
        self.bit_offset / 8
    }
}

/// Bytes of the type that begins at `at`; `None` for an unknown kind.
pub(super) fn encoded_len(blob: &[u8], at: usize) -> Option<usize> {
    let info = u32_at(blob, at.checked_add(4)?)?;
    let count = (info & 0xffff) as usize;
    let extra = match info >> 24 & 0x1f {
        1 | 14 | 17 => 4,
        2 | 7..=12 | 16 | 18 => 0,
        3 => 12,
        4 | 5 | 15 | 19 => count.checked_mul(12)?,
        6 | 13 => count.checked_mul(8)?,
        _ => return None,
    };
    COMMON.checked_add(extra)
}

/// All types of a kernel.
#[derive(Debug)]
pub struct Types {
    vmlinux: Btf,
    modules: OnceCell<Vec<(String, Btf)>>,
}

impl Types {
    /// Those of vmlinux.
    pub fn new(vmlinux: Btf) -> Self {
        Self {
            vmlinux,
            modules: OnceCell::new(),
        }
    }

    /// The blob that modules' blobs build on.
    pub fn vmlinux(&self) -> &Btf {
        &self.vmlinux
    }

    /// Adds the modules', if that was not done yet.
    pub(crate) fn set_modules(&self, modules: impl FnOnce() -> Vec<(String, Btf)>) {
        self.modules.get_or_init(|| {
            let mut modules = modules();
            modules.truncate(usize::from(u16::MAX).saturating_sub(1));
            modules
        });
    }

    fn modules(&self) -> &[(String, Btf)] {
        self.modules.get().map(Vec::as_slice).unwrap_or_default()
    }

    fn blob(&self, number: u16) -> Option<&Btf> {
        match number.checked_sub(1) {
            None => Some(&self.vmlinux),
            Some(module) => self.modules().get(usize::from(module)).map(|(_, btf)| btf),
        }
    }

    /// Blobs, with their numbers.
    fn blobs(&self) -> impl Iterator<Item = (u16, &Btf)> {
        let modules = self.modules().iter().map(|(_, btf)| btf);
        (0u16..).zip(std::iter::once(&self.vmlinux).chain(modules))
    }

    /// Every type.
    pub fn all(&self) -> impl Iterator<Item = TypeId> {
        self.blobs().flat_map(|(blob, btf)| {
            let numbers = btf.first..btf.end();
            numbers.map(move |number| TypeId { blob, number })
        })
    }

    fn string(&self, blob: u16, number: u32) -> &str {
        let own = self.blob(blob).and_then(|btf| btf.string(number));
        own.or_else(|| self.vmlinux.string(number))
            .unwrap_or_default()
    }

    /// A type that a type of `blob` names by its number.
    fn id(&self, blob: u16, number: u32) -> TypeId {
        match number < self.vmlinux.end() {
            true => TypeId { blob: 0, number },
            false => TypeId { blob, number },
        }
    }

    /// What a type is; `void` for one that is nowhere.
    pub fn get(&self, id: TypeId) -> Type<'_> {
        self.decoded(id).unwrap_or(Type {
            name: "",
            kind: Kind::Void,
            extra: &[],
            count: 0,
            flag: false,
            blob: 0,
        })
    }

    fn decoded(&self, id: TypeId) -> Option<Type<'_>> {
        let btf = self.blob(id.blob)?;
        let at = btf.offset(id.number)?;
        let len = encoded_len(&btf.blob, at)?;
        let bytes = btf.blob.get(at..at.checked_add(len)?)?;
        let (info, size) = (u32_at(bytes, 4)?, u32_at(bytes, 8)?);
        let extra = bytes.get(COMMON..)?;
        let flag = info >> 31 != 0;
        let other = self.id(id.blob, size);
        let kind = match info >> 24 & 0x1f {
            1 => {
                let encoding = u32_at(extra, 0)? >> 24;
                Kind::Int {
                    size,
                    signed: encoding & 1 != 0,
                    bool: encoding & 4 != 0,
                }
            }
            2 => Kind::Pointer(other),
            3 => Kind::Array {
                element: self.id(id.blob, u32_at(extra, 0)?),
                count: u32_at(extra, 8)?,
            },
            4 => Kind::Struct { size },
            5 => Kind::Union { size },
            // Before 6.0 flags told nothing, and values were signed.
            6 | 19 => Kind::Enum { size, signed: flag },
            7 => Kind::Forward,
            8 => Kind::Typedef(other),
            9 => Kind::Qualifier("volatile", other),
            10 => Kind::Qualifier("const", other),
            11 => Kind::Qualifier("restrict", other),
            12 => Kind::Function(other),
            13 => Kind::Prototype(other),
            14 => Kind::Variable(other),
            15 => Kind::Section,
            16 => Kind::Float { size },
            18 => Kind::Qualifier("", other),
            _ => Kind::Remark,
        };
        Some(Type {
            name: self.string(id.blob, u32_at(bytes, 0)?),
            kind,
            extra,
            count: (info & 0xffff) as usize,
            flag,
            blob: id.blob,
        })
    }

    /// The members of a structure or union, in their order; none of other types.
    pub fn members<'a>(&'a self, ty: &Type<'a>) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let Type { blob, flag, .. } = *ty;
        let is_one = matches!(ty.kind, Kind::Struct { .. } | Kind::Union { .. });
        let members = if is_one { ty.extra } else { &[] };
        members.chunks_exact(12).filter_map(move |member| {
            let place = u32_at(member, 8)?;
            let (bit_offset, bits) = match flag {
                true => (
                    place & 0xff_ffff,
                    Some(place >> 24).filter(|bits| *bits > 0),
                ),
                false => (place, None),
            };
            Some(Member {
                name: self.string(blob, u32_at(member, 0)?),
                ty: self.id(blob, u32_at(member, 4)?),
                bit_offset,
                bits,
            })
        })
    }

    /// The names and values of an enumeration.
    pub fn values<'a>(&'a self, ty: &Type<'a>) -> impl Iterator<Item = (&'a str, i64)> + use<'a> {
        let blob = ty.blob;
        let is_one = matches!(ty.kind, Kind::Enum { .. });
        let count = if is_one { ty.count } else { 0 };
        let width = ty.extra.len().checked_div(count).unwrap_or(0);
        let extra = ty.extra;
        (0..count).filter_map(move |index| {
            let at = index.checked_mul(width)?;
            let value = extra.get(at..at.checked_add(width)?)?;
            let low = u32_at(value, 4)?;
            let number = match u32_at(value, 8) {
                Some(high) => (u64::from(high) << 32 | u64::from(low)).cast_signed(),
                None => low.cast_signed().into(),
            };
            Some((self.string(blob, u32_at(value, 0)?), number))
        })
    }

    /// The first type of a name for which `wanted` is true; vmlinux's before modules'.
    fn named(&self, name: &str, wanted: impl Fn(&Type<'_>) -> bool) -> Option<TypeId> {
        self.blobs().find_map(|(blob, btf)| {
            let all = (btf.first..btf.end()).filter_map(|number| {
                let at = btf.offset(number)?;
                Some((self.string(blob, u32_at(&btf.blob, at)?), number))
            });
            let mut ids = btf
                .names
                .candidates(name, all)
                .map(|number| TypeId { blob, number });
            ids.find(|id| {
                let ty = self.get(*id);
                ty.name == name && wanted(&ty)
            })
        })
    }

    /// A structure or union by its name.
    pub fn named_struct(&self, name: &str) -> Option<TypeId> {
        self.named(name, |ty| {
            matches!(ty.kind, Kind::Struct { .. } | Kind::Union { .. })
        })
    }

    /// A type by its name as C writes it: `struct page`, `union …`, `enum …`, or a typedef's or
    /// number's name; a structure's without the word, too.
    pub fn find(&self, name: &str) -> Option<TypeId> {
        let (word, rest) = name.split_once(' ').unwrap_or(("", name));
        match word {
            "struct" => self.named(rest, |ty| matches!(ty.kind, Kind::Struct { .. })),
            "union" => self.named(rest, |ty| matches!(ty.kind, Kind::Union { .. })),
            "enum" => self.named(rest, |ty| matches!(ty.kind, Kind::Enum { .. })),
            _ => {
                let plain = |ty: &Type<'_>| {
                    matches!(
                        ty.kind,
                        Kind::Int { .. }
                            | Kind::Float { .. }
                            | Kind::Typedef(_)
                            | Kind::Enum { .. }
                    )
                };
                self.named_struct(name).or_else(|| self.named(name, plain))
            }
        }
    }

    /// A variable's place in a section, and its type.
    pub fn variable(&self, section: &str, name: &str) -> Option<(u64, TypeId)> {
        let section = self.named(section, |ty| ty.kind == Kind::Section)?;
        let section = self.get(section);
        let mut variables = section.extra.chunks_exact(12);
        variables.find_map(|entry| {
            let id = self.id(section.blob, u32_at(entry, 0)?);
            let variable = self.get(id);
            match variable.kind {
                Kind::Variable(ty) if variable.name == name => Some((u32_at(entry, 4)?.into(), ty)),
                _ => None,
            }
        })
    }

    /// The type without typedefs and qualifiers.
    pub fn stripped(&self, id: TypeId) -> TypeId {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            match self.get(id).kind {
                Kind::Typedef(to) | Kind::Qualifier(_, to) | Kind::Variable(to) => id = to,
                _ => break,
            }
        }
        id
    }

    /// Bytes of a type; 0 if it has no size.
    pub fn size(&self, id: TypeId) -> u64 {
        let mut id = id;
        let mut times = 1u64;
        for _ in 0..MAX_DEPTH {
            id = self.stripped(id);
            match self.get(id).kind {
                Kind::Int { size, .. }
                | Kind::Struct { size }
                | Kind::Union { size }
                | Kind::Enum { size, .. }
                | Kind::Float { size } => return times.saturating_mul(size.into()),
                Kind::Pointer(_) => return times.saturating_mul(8),
                Kind::Array { element, count } => {
                    times = times.saturating_mul(count.into());
                    id = element;
                }
                _ => return 0,
            }
        }
        0
    }

    /// Finds a member, its members and so on: `se.cfs_rq`, `rss_stat[1].count`. Members of
    /// members without a name are found as C finds them.
    pub fn field(&self, id: TypeId, path: &str) -> Option<Field> {
        let mut field = Field {
            ty: id,
            bit_offset: 0,
            bits: None,
        };
        for step in path.split('.') {
            let (name, index) = match step.strip_suffix(']').and_then(|s| s.split_once('[')) {
                Some((name, index)) => (name, Some(index.parse::<u64>().ok()?)),
                None => (step, None),
            };
            let mut left = MAX_VISITED;
            let inside = self.member(self.stripped(field.ty), name, MAX_DEPTH, &mut left)?;
            field = Field {
                bit_offset: field.bit_offset.checked_add(inside.bit_offset)?,
                ..inside
            };
            if let Some(index) = index {
                let Kind::Array { element, .. } = self.get(self.stripped(field.ty)).kind else {
                    return None;
                };
                let bits = self.size(element).checked_mul(8)?.checked_mul(index)?;
                field.ty = element;
                field.bit_offset = field.bit_offset.checked_add(bits)?;
            }
        }
        Some(field)
    }

    fn member(&self, id: TypeId, name: &str, depth: u32, left: &mut u32) -> Option<Field> {
        let depth = depth.checked_sub(1)?;
        let ty = self.get(id);
        for member in self.members(&ty) {
            *left = left.checked_sub(1)?;
            let here = Field {
                ty: member.ty,
                bit_offset: member.bit_offset.into(),
                bits: member.bits,
            };
            if member.name == name {
                return Some(here);
            }
            if member.name.is_empty() {
                let inside = self.stripped(member.ty);
                if let Some(found) = self.member(inside, name, depth, left) {
                    return Some(Field {
                        bit_offset: found.bit_offset.saturating_add(here.bit_offset),
                        ..found
                    });
                }
            }
        }
        None
    }

    /// The type as C writes it: `struct list_head *`, `char [16]`.
    pub fn c_name(&self, id: TypeId) -> String {
        let (left, right) = self.declared(id);
        // `struct page *`, `char [16]`, `int`.
        format!("{left}{right}").trim_end().to_owned()
    }

    /// The parts of a declaration before and behind the name: `char `, `[16]`.
    pub fn declared(&self, id: TypeId) -> (String, String) {
        let (mut id, mut left, mut right) = (id, String::new(), String::new());
        let mut qualifiers = String::new();
        let mut pointer_before = false;
        for _ in 0..MAX_DEPTH {
            let ty = self.get(id);
            let named = |word: &str| match ty.name {
                "" => format!("{word} {{…}}"),
                name => format!("{word} {name}"),
            };
            let base = match ty.kind {
                Kind::Pointer(to) => {
                    left.insert(0, '*');
                    pointer_before = true;
                    id = to;
                    continue;
                }
                Kind::Array { element, count } => {
                    if pointer_before {
                        left.insert(0, '(');
                        right.insert(0, ')');
                        pointer_before = false;
                    }
                    right.push_str(&format!("[{count}]"));
                    id = element;
                    continue;
                }
                Kind::Prototype(returns) => {
                    if pointer_before {
                        left.insert(0, '(');
                        right.insert(0, ')');
                        pointer_before = false;
                    }
                    right.push_str("()");
                    id = returns;
                    continue;
                }
                Kind::Qualifier(word, to) => {
                    if !word.is_empty() {
                        match self.get(to).kind {
                            Kind::Pointer(_) => left.insert_str(0, &format!("{word} ")),
                            _ => qualifiers.push_str(&format!("{word} ")),
                        }
                    }
                    id = to;
                    continue;
                }
                Kind::Variable(to) | Kind::Function(to) => {
                    id = to;
                    continue;
                }
                Kind::Void => "void".to_owned(),
                Kind::Struct { .. } => named("struct"),
                Kind::Forward => named(if ty.flag { "union" } else { "struct" }),
                Kind::Union { .. } => named("union"),
                Kind::Enum { .. } => named("enum"),
                Kind::Int { .. } | Kind::Float { .. } | Kind::Typedef(_) => ty.name.to_owned(),
                Kind::Section | Kind::Remark => "?".to_owned(),
            };
            return (format!("{qualifiers}{base} {left}"), right);
        }
        ("?".to_owned(), String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Word::{Name, Number};
    use super::super::tests::Writer;
    use super::*;

    const STRUCT: u32 = 4 << 24;
    const UNION: u32 = 5 << 24;
    const FLAG: u32 = 1 << 31;

    fn vmlinux() -> Writer {
        let mut w = Writer::new(0, 0);
        let int = w.add("int", 1 << 24, 4, &[Number(0x0100_0020)]); // 1
        let char = w.add("char", 1 << 24, 1, &[Number(0x0100_0008)]); // 2
        let comm = w.add("", 3 << 24, 0, &[Number(char), Number(int), Number(16)]); // 3
        let union = w.add(
            "",
            UNION | 2,
            4,
            &[
                Name("rcu"),
                Number(int),
                Number(0),
                Name("usage"),
                Number(int),
                Number(0),
            ],
        ); // 4
        let pid_t = w.add("pid_t", 8 << 24, int, &[]); // 5
        let task = 8;
        let pointer = w.add("", 2 << 24, task, &[]); // 6
        let konst = w.add("", 10 << 24, pid_t, &[]); // 7
        let own = w.add(
            "task_struct",
            FLAG | STRUCT | 6,
            40,
            &[
                Name("pid"),
                Number(konst),
                Number(0),
                Name(""),
                Number(union),
                Number(32),
                Name("comm"),
                Number(comm),
                Number(64),
                Name("parent"),
                Number(pointer),
                Number(192),
                Name("on_cpu"),
                Number(int),
                Number(256 | 3 << 24),
                Name("flags"),
                Number(int),
                Number(259 | 5 << 24),
            ],
        );
        assert_eq!(own, task);
        let rq = w.add("runqueues", 14 << 24, task, &[Number(1)]);
        w.add(
            ".data..percpu",
            15 << 24 | 1,
            64,
            &[Number(rq), Number(0x40), Number(40)],
        );
        w.add(
            "state",
            6 << 24 | 2,
            4,
            &[Name("RUN"), Number(0), Name("DEAD"), Number(u32::MAX)],
        );
        w
    }

    #[test]
    fn members_are_found_as_c_finds_them() {
        let types = Types::new(Btf::vmlinux(vmlinux().blob()).unwrap());
        let task = types.find("task_struct").unwrap();
        assert_eq!(types.find("struct task_struct"), Some(task));
        assert_eq!(types.find("union task_struct"), None);
        assert_eq!(types.size(task), 40);
        let at = |path| {
            types
                .field(task, path)
                .map(|field| (field.bit_offset, field.bits))
        };
        assert_eq!(at("pid"), Some((0, None)));
        assert_eq!(at("usage"), Some((32, None)), "in a union without a name");
        assert_eq!(at("comm[3]"), Some((88, None)));
        assert_eq!(at("flags"), Some((259, Some(5))));
        assert_eq!(
            (at("absent"), at("pid.x"), at("pid[1]")),
            (None, None, None)
        );
        let named = |path| types.c_name(types.field(task, path).unwrap().ty);
        assert_eq!(named("comm"), "char [16]");
        assert_eq!(named("parent"), "struct task_struct *");
        assert_eq!(named("pid"), "const pid_t");
        assert_eq!(
            types.variable(".data..percpu", "runqueues"),
            Some((0x40, task))
        );
        let state = types.get(types.find("enum state").unwrap());
        let values: Vec<_> = types.values(&state).collect();
        assert_eq!(values, [("RUN", 0), ("DEAD", -1)]);
    }

    #[test]
    fn a_modules_types_count_on_from_the_kernels() {
        let base = vmlinux();
        let mut split = Writer::new(base.strings.len() as u32, base.count);
        let mine = split.add(
            "my_task",
            STRUCT | 1,
            40,
            &[Name("task"), Number(8), Number(0)],
        );
        let types = Types::new(Btf::vmlinux(base.blob()).unwrap());
        let btf = Btf::split(split.blob(), types.vmlinux()).unwrap();
        types.set_modules(|| vec![("mine".to_owned(), btf)]);
        let id = types.find("my_task").unwrap();
        assert_eq!(
            id,
            TypeId {
                blob: 1,
                number: mine
            }
        );
        let field = types.field(id, "task.comm").unwrap();
        assert_eq!(field.offset(), 8);
        assert_eq!(types.c_name(field.ty), "char [16]");
    }
}
