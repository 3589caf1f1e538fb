//! `kdraw struct`: the layout of the crashed kernel's types, and what stands in memory by it.

use anyhow::{Context, Result};
use kdraw_kernel::Kernel;
use kdraw_kernel::btf::{Field, Kind, Type, TypeId, Types};
use kdraw_kernel::object::Object;
use serde_json::{Map, Value, json};

use super::dump_args::{DumpArgs, locate};
use crate::exit::Verdict;
use crate::system::System;

/// The most levels of structures within structures.
const MAX_DEPTH: usize = 16;
/// The most elements of an array that are shown.
const MAX_ELEMENTS: u32 = 64;
/// The most lines, or values.
const MAX_SHOWN: usize = 20_000;
/// Columns in front of a member's offset and size.
const COLUMN: usize = 56;

/// Show the layout of a type of the crashed kernel, or the values at an address.
///
/// Types come from the dead kernel's own BTF, its modules' too: no debug package is needed.
/// Memory that the dump does not have is shown as absent; then the exit code is 1.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kdraw struct vmcore list_head
  kdraw struct vmcore task_struct init_task
  kdraw struct vmcore task_struct.comm ffff0000c0a81040")]
pub struct Args {
    #[command(flatten)]
    dump: DumpArgs,
    /// A structure, union, enumeration or typedef; with `.member` a part of it.
    name: String,
    /// A hexadecimal address or a symbol, either with `+0x…` bytes.
    address: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the dump cannot be read, or the kernel has no such type.
pub fn run(args: &Args, system: &System) -> Result<Verdict> {
    args.dump.with_kernel(system, |kernel| {
        let types = kernel.all_types()?;
        let (name, path) = match args.name.split_once('.') {
            Some((name, path)) => (name, Some(path)),
            None => (args.name.as_str(), None),
        };
        let ty = types.find(name);
        let ty = ty.with_context(|| format!("the kernel has no type {name:?}"))?;
        let field = match path {
            Some(path) => types
                .field(ty, path)
                .with_context(|| format!("{} has no member {path:?}", types.c_name(ty)))?,
            None => Field {
                ty,
                bit_offset: 0,
                bits: None,
            },
        };
        let Some(address) = &args.address else {
            let layout = Layout::new(types);
            match args.json {
                true => println!("{}", serde_json::to_string_pretty(&layout.as_json(field))?),
                false => print!("{}", layout.as_text(field)),
            }
            return Ok(Verdict::Good);
        };
        let whole = Object::new(kernel, types, ty, locate(kernel, address)?);
        let object = match path {
            Some(path) => whole.field(path)?,
            None => whole,
        };
        let mut values = Values {
            kernel,
            types,
            absent: 0,
            left: MAX_SHOWN,
        };
        let value = values.value(&object, MAX_DEPTH);
        let what = match path {
            Some(path) => format!("{path} = "),
            None => format!("{} at {:#x} = ", types.c_name(ty), whole.address),
        };
        match args.json {
            true => println!("{}", serde_json::to_string_pretty(&value)?),
            false => println!("{what}{}", in_words(&value, 0)),
        }
        Ok(Verdict::from_good(values.absent == 0))
    })
}

/// How types are laid out.
struct Layout<'k> {
    types: &'k Types,
}

impl<'k> Layout<'k> {
    fn new(types: &'k Types) -> Self {
        Self { types }
    }

    fn as_text(&self, field: Field) -> String {
        let id = self.types.stripped(field.ty);
        let ty = self.types.get(id);
        let mut text = String::new();
        match ty.kind {
            Kind::Struct { .. } | Kind::Union { .. } => {
                self.body(&mut text, id, field.bit_offset, 0, MAX_DEPTH);
                let members = self.types.members(&ty).count();
                let size = self.types.size(id);
                text.push_str(&format!(
                    "\n\t/* size: {size}, members: {members} */\n}};\n"
                ));
            }
            Kind::Enum { .. } => {
                text.push_str(&format!("{} {{\n", self.types.c_name(id)));
                for (name, value) in self.types.values(&ty) {
                    text.push_str(&format!("\t{name} = {value},\n"));
                }
                text.push_str("};\n");
            }
            _ => {
                let name = self.types.c_name(field.ty);
                let size = self.types.size(field.ty);
                let place = place(field.bit_offset, field.bits, size);
                text.push_str(&format!("{name}\t{place}\n"));
            }
        }
        text
    }

    /// A structure up to its closing brace.
    fn body(&self, text: &mut String, id: TypeId, base: u64, tabs: usize, depth: usize) {
        let indent = "\t".repeat(tabs);
        let ty = self.types.get(id);
        let name = match (ty.name, ty.kind) {
            ("", Kind::Union { .. }) => "union".to_owned(),
            ("", _) => "struct".to_owned(),
            _ => self.types.c_name(id),
        };
        text.push_str(&format!("{indent}{name} {{\n"));
        let is_struct = matches!(ty.kind, Kind::Struct { .. });
        let mut end = base;
        for member in self.types.members(&ty) {
            if text.len() > MAX_SHOWN.saturating_mul(COLUMN) {
                break;
            }
            let at = base.saturating_add(member.bit_offset.into());
            let hole = at.saturating_sub(end);
            if is_struct && hole > 0 {
                let hole = match hole % 8 {
                    0 => format!("{} bytes", hole / 8),
                    _ => format!("{hole} bits"),
                };
                text.push_str(&format!("\n{indent}\t/* XXX {hole} hole */\n\n"));
            }
            let size = self.types.size(member.ty);
            let bits = member.bits.map_or(size.saturating_mul(8), u64::from);
            end = end.max(at.saturating_add(bits));
            let inner = self.types.stripped(member.ty);
            let place = place(at, member.bits, size);
            let is_inline = self.types.get(inner).name.is_empty()
                && matches!(
                    self.types.get(inner).kind,
                    Kind::Struct { .. } | Kind::Union { .. }
                )
                && inner == member.ty;
            if let Some(depth) = depth.checked_sub(1).filter(|_| is_inline) {
                self.body(text, inner, at, tabs.saturating_add(1), depth);
                let gap = if member.name.is_empty() { "" } else { " " };
                let line = format!("{indent}\t}}{gap}{};", member.name);
                text.push_str(&format!("{line:<COLUMN$}{place}\n"));
                continue;
            }
            let (left, right) = self.types.declared(member.ty);
            let bits = member.bits.map(|bits| format!(":{bits}"));
            let bits = bits.unwrap_or_default();
            let line = format!("{indent}\t{left}{}{right}{bits};", member.name);
            text.push_str(&format!("{line:<COLUMN$}{place}\n"));
        }
    }

    fn as_json(&self, field: Field) -> Value {
        let id = self.types.stripped(field.ty);
        let ty = self.types.get(id);
        let mut members = Vec::new();
        self.members(&ty, field.bit_offset, MAX_DEPTH, &mut members);
        let values: Map<_, _> = self
            .types
            .values(&ty)
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        let mut json = json!({
            "type": self.types.c_name(field.ty),
            "size": self.types.size(id),
            "offset": field.offset(),
        });
        if let Some(object) = json.as_object_mut() {
            if !members.is_empty() {
                object.insert("members".to_owned(), members.into());
            }
            if !values.is_empty() {
                object.insert("values".to_owned(), values.into());
            }
        }
        json
    }

    /// Members; those of members without a name among them.
    fn members(&self, ty: &Type<'_>, base: u64, depth: usize, all: &mut Vec<Value>) {
        let Some(depth) = depth.checked_sub(1) else {
            return;
        };
        for member in self.types.members(ty).take(MAX_SHOWN) {
            if all.len() > MAX_SHOWN {
                break;
            }
            let at = base.saturating_add(member.bit_offset.into());
            if member.name.is_empty() {
                let inner = self.types.get(self.types.stripped(member.ty));
                self.members(&inner, at, depth, all);
                continue;
            }
            let mut json = json!({
                "name": member.name,
                "type": self.types.c_name(member.ty),
                "offset": at / 8,
                "size": self.types.size(member.ty),
            });
            if let (Some(object), Some(bits)) = (json.as_object_mut(), member.bits) {
                object.insert("bit".to_owned(), (at % 8).into());
                object.insert("bits".to_owned(), bits.into());
            }
            all.push(json);
        }
    }
}

/// pahole's remark: offset, bit in it if it is a bit field, size.
fn place(bit_offset: u64, bits: Option<u32>, size: u64) -> String {
    let bytes = bit_offset / 8;
    match bits {
        Some(_) => format!("/* {:>5}:{:>2} {size:>3} */", bytes, bit_offset % 8),
        None => format!("/* {bytes:>5} {size:>6} */"),
    }
}

/// Values at an address.
struct Values<'k> {
    kernel: &'k Kernel<'k>,
    types: &'k Types,
    /// Values that cannot be read.
    absent: u64,
    /// How many more are shown.
    left: usize,
}

impl Values<'_> {
    fn value(&mut self, object: &Object<'_>, depth: usize) -> Value {
        let (Some(depth), Some(left)) = (depth.checked_sub(1), self.left.checked_sub(1)) else {
            return "…".into();
        };
        self.left = left;
        let ty = self.types.get(self.types.stripped(object.ty));
        match ty.kind {
            Kind::Struct { .. } | Kind::Union { .. } => {
                let mut members = Map::new();
                self.members(object, &ty, &mut members, depth);
                members.into()
            }
            Kind::Array { element, count } => self.array(object, element, count, depth),
            _ => self.scalar(object, &ty),
        }
    }

    fn members(
        &mut self,
        object: &Object<'_>,
        ty: &Type<'_>,
        into: &mut Map<String, Value>,
        depth: usize,
    ) {
        for member in self.types.members(ty) {
            if member.name.is_empty() {
                let address = object.address.wrapping_add((member.bit_offset / 8).into());
                let inner = Object::new(self.kernel, self.types, member.ty, address);
                let inner_ty = self.types.get(self.types.stripped(member.ty));
                if let Some(depth) = depth.checked_sub(1) {
                    self.members(&inner, &inner_ty, into, depth);
                }
            } else if let Ok(inner) = object.field(member.name) {
                let value = self.value(&inner, depth);
                into.insert(member.name.to_owned(), value);
            }
        }
    }

    fn array(&mut self, object: &Object<'_>, element: TypeId, count: u32, depth: usize) -> Value {
        let is_text = matches!(
            self.types.get(self.types.stripped(element)).kind,
            Kind::Int { size: 1, .. }
        ) && self.types.c_name(element).contains("char");
        if is_text && count > 0 {
            return match object.text() {
                Ok(text) => text.into(),
                Err(_) => self.lost(),
            };
        }
        let mut elements = Vec::new();
        for index in 0..count.min(MAX_ELEMENTS) {
            match object.index(index.into()) {
                Ok(inner) => elements.push(self.value(&inner, depth)),
                Err(_) => break,
            }
        }
        if count > MAX_ELEMENTS {
            elements.push("…".into());
        }
        elements.into()
    }

    fn scalar(&mut self, object: &Object<'_>, ty: &Type<'_>) -> Value {
        let Ok(number) = object.number() else {
            // What has no bytes, such as a function, has no value.
            if object.size() == 0 {
                return Value::Null;
            }
            return self.lost();
        };
        match ty.kind {
            Kind::Pointer(_) => self.pointer(number),
            Kind::Int { bool: true, .. } => (number != 0).into(),
            Kind::Int { signed: true, .. } => number.cast_signed().into(),
            Kind::Enum { .. } => {
                let value = if object.size() == 4 {
                    i64::from(number as i32)
                } else {
                    number.cast_signed()
                };
                let mut names = self.types.values(ty);
                match names.find(|(_, known)| *known == value) {
                    Some((name, _)) => name.into(),
                    None => value.into(),
                }
            }
            _ => number.into(),
        }
    }

    fn pointer(&self, to: u64) -> Value {
        let place = self.kernel.place(to).map(|place| match place.offset {
            0 => format!("{to:#x} <{}>", place.symbol.name),
            offset => format!("{to:#x} <{}+{offset:#x}>", place.symbol.name),
        });
        place.unwrap_or_else(|| format!("{to:#x}")).into()
    }

    fn lost(&mut self) -> Value {
        self.absent = self.absent.saturating_add(1);
        "absent".into()
    }
}

/// A value as C might write it.
fn in_words(value: &Value, indent: usize) -> String {
    let inner = indent.saturating_add(2);
    match value {
        Value::Object(members) => {
            let mut text = "{\n".to_owned();
            for (name, value) in members {
                let value = in_words(value, inner);
                text.push_str(&format!("{:inner$}{name} = {value},\n", ""));
            }
            text.push_str(&format!("{:indent$}}}", ""));
            text
        }
        Value::Array(elements) => {
            let plain = elements.iter().all(|element| !element.is_object());
            let parts: Vec<_> = elements.iter().map(|e| in_words(e, inner)).collect();
            match plain {
                true => format!("{{{}}}", parts.join(", ")),
                false => format!("{{\n{:inner$}{}\n{:indent$}}}", "", parts.join(", "), ""),
            }
        }
        Value::String(text) if text.starts_with("0x") || text == "absent" || text == "…" => {
            text.clone()
        }
        other => other.to_string(),
    }
}
