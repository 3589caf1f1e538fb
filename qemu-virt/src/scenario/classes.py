# Tells what each page of a crashed kernel is: lines of `PFN COUNT CLASS`.
#
# The second opinion on kdraw's classifier, by makedumpfile's rules but by other ways: members and
# flags are found by debug information instead of VMCOREINFO; free and huge pages are those on the
# lists of the buddy allocator and of hugetlb, instead of those with a type.
#
# classes.py VMCORE VMLINUX FIRST-END…          classes of these ranges of page frames
# classes.py VMCORE VMLINUX explain < FRAMES    flags, type and use of these page frames

import struct
import sys

import drgn
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.hugetlb import for_each_hstate
from drgn.helpers.linux.list import list_for_each
from drgn.helpers.linux.mm import compound_order, decode_page_flags, page_to_pfn, pfn_to_page
from drgn.helpers.linux.mmzone import for_each_online_pgdat
from drgn.helpers.linux.percpu import per_cpu_ptr

# PAGE_MAPPING_ANON, FOLIO_MAPPING_ANON (include/linux/page-flags.h); macros are not in DWARF.
ANONYMOUS = 1
# PAGE_TYPE_BASE and PG_offline (page-flags.h before 6.12).
TYPE_BASE, OFFLINE = 0xF0000000, 0x00000100

prog = drgn.Program()
prog.set_core_dump(sys.argv[1])
prog.load_debug_info([sys.argv[2]])
page_type = prog.type("struct page")
SIZE = drgn.sizeof(page_type)


def offset(*names):
    for name in names:
        try:
            return drgn.offsetof(page_type, name)
        except LookupError:
            pass
    raise LookupError(names)


def constant(name):
    try:
        return prog.constant(name).value_()
    except LookupError:
        return None


def flag(name):
    bit = constant(name)
    return 0 if bit is None else 1 << bit


HEAD, LRU, PRIVATE, SWAPBACKED, SWAPCACHE, HWPOISON, SLAB, RESERVED = (
    flag("PG_" + name)
    for name in "head lru private swapbacked swapcache hwpoison slab reserved".split()
)
FLAGS, MAPPING, TYPE = offset("flags"), offset("mapping"), offset("page_type")
LINK = offset("compound_head", "compound_info")
SLAB_TYPE, OFFLINE_TYPE = constant("PGTY_slab"), constant("PGTY_offline")


def is_slab(flags, kind):
    return bool(flags & SLAB) or SLAB_TYPE is not None and kind >> 24 == SLAB_TYPE


def is_offline(kind):
    if OFFLINE_TYPE is not None:
        return kind >> 24 == OFFLINE_TYPE
    return kind & (TYPE_BASE | OFFLINE) == TYPE_BASE


def pages_on(head):
    for node in list_for_each(head.address_of_()):
        yield drgn.Object(prog, "struct page *", node.value_() - offset("lru"))


def free_pages():
    """The blocks on the lists of the buddy allocator, as first frame: frames."""
    blocks = {}
    for node in for_each_online_pgdat(prog):
        for zone in node.node_zones:
            # The lists of a zone without memory were never set up.
            areas = zone.free_area if zone.present_pages else []
            for order, area in enumerate(areas):
                for head in area.free_list:
                    for page in pages_on(head):
                        blocks[page_to_pfn(page).value_()] = 1 << order
    return blocks


def cpu_pages():
    """The frames on the CPUs' own lists of free pages; blocks on them are not of one order."""
    frames = set()
    for node in for_each_online_pgdat(prog):
        for zone in node.node_zones:
            for cpu in for_each_online_cpu(prog) if zone.present_pages else []:
                lists = per_cpu_ptr(zone.per_cpu_pageset, cpu).lists
                for index, head in enumerate(lists):
                    for page in pages_on(head):
                        first = page_to_pfn(page).value_()
                        frames.update(range(first, first + (1 << list_order(index))))
    return frames


def list_order(index):
    """Lists are for each order up to PAGE_ALLOC_COSTLY_ORDER and migrate type, then THP's."""
    order = index // prog["MIGRATE_PCPTYPES"].value_()
    return order if order <= 3 else 9


def huge_pages():
    """The first frames of hugetlb's pages, used and unused."""
    frames = set()
    for state in for_each_hstate(prog):
        for head in [state.hugepage_activelist, *state.hugepage_freelists]:
            frames.update(page_to_pfn(page).value_() for page in pages_on(head))
    return frames


def classify(first, end, free, huge):
    memmap = prog.read(pfn_to_page(prog, first), (end - first) * SIZE)
    words = lambda at, code: [
        value for value, in struct.iter_unpack(f"<{at}x{code}{SIZE - at - struct.calcsize(code)}x", memmap)
    ]
    flags, mapping, link, kind = words(FLAGS, "Q"), words(MAPPING, "Q"), words(LINK, "Q"), words(TYPE, "I")
    pfn = first
    while pfn < end:
        i, count = pfn - first, 1
        if flags[i] & HEAD and not link[i] & 1:
            count = 1 << compound_order(pfn_to_page(prog, pfn)).value_()
        if flags[i] & HWPOISON:
            name, count = "hwpoison", 1
        elif pfn in free:
            name, count = "free", free[pfn]
        elif link[i] & 1:
            name = "kernel"
        elif is_slab(flags[i], kind[i]):
            name = "slab"
        elif is_offline(kind[i]):
            name = "offline"
        elif pfn in huge or mapping[i] & ANONYMOUS:
            name = "user"
        elif flags[i] & LRU or flags[i] & SWAPBACKED and flags[i] & SWAPCACHE:
            name = "private cache" if flags[i] & PRIVATE else "cache"
        else:
            name = "reserved" if flags[i] & RESERVED else "kernel"
        count = min(count, end - pfn)
        # Broken pages inside of a block are broken nevertheless.
        broken = [at for at in range(pfn, pfn + count) if flags[at - first] & HWPOISON]
        yield pfn, count, name
        if name != "hwpoison":
            yield from ((at, 1, "hwpoison") for at in broken)
        pfn += count


if sys.argv[3:] == ["explain"]:
    listed = cpu_pages()
    for pfn in map(int, sys.stdin):
        page = pfn_to_page(prog, pfn)
        kind = page.page_type.value_()
        mapping = page.mapping.value_() & 3
        names = "|".join(sorted(decode_page_flags(page).split("|")))
        where = "on a CPU's list " if pfn in listed else ""
        print(f"{where}{names} type={kind:#x} mapping&3={mapping} refcount={page._refcount.counter.value_()}")
else:
    free, huge = free_pages(), huge_pages()
    for argument in sys.argv[3:]:
        for pfn, count, name in classify(*map(int, argument.split("-")), free, huge):
            print(pfn, count, name)
