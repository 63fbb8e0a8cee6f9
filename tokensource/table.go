package tokensource

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// table is the bounded table of a keyed source. Looking up is a lock-free
// read; making and evicting take a lock.
type table struct {
	max      int
	maxBytes int64 // 0: no bound
	bytes    atomic.Int64
	keep     bool     // tokens must stay: nothing but this memory has them
	byKey    sync.Map // Key -> *entry
	mu       sync.Mutex
	order    lruHeap
}

func newTable(maxKeys int, maxBytes int64, keep bool) *table {
	return &table{max: maxKeys, maxBytes: maxBytes, keep: keep}
}

// get returns the key's entry; nil: there is none.
func (ts *table) get(k Key, now time.Time) *entry {
	v, ok := ts.byKey.Load(k)
	if !ok {
		return nil
	}
	e := v.(*entry)
	e.touch(now)
	return e
}

// add makes the key's entry, unless another has just made it, and returns it.
func (ts *table) add(k Key, now time.Time) *entry {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	e := &entry{key: k}
	e.touch(now)
	size := e.weigh() // nobody else has it yet
	if v, loaded := ts.byKey.LoadOrStore(k, e); loaded {
		return v.(*entry)
	}
	ts.bytes.Add(size)
	ts.evict(now)
	heap.Push(&ts.order, lruItem{e, now.UnixNano()})
	return e
}

// evict makes room for one more, removing the entries longest unused. The heap
// is lazy: it holds the time of use as it was when the entry was last looked
// at, and an entry used since goes back in with the new one. What may not be
// evicted goes back too, as if it were used now, and stays over the bound if
// need be: a token that only a person could replace is worth more than memory.
func (ts *table) evict(now time.Time) {
	var kept []lruItem
	for ts.tooMany(len(kept)) && ts.order.Len() > 0 && len(kept) < maxUnevictable {
		item := heap.Pop(&ts.order).(lruItem)
		if used := item.entry.used.Load(); used > item.used {
			heap.Push(&ts.order, lruItem{item.entry, used})
			continue
		}
		size, ok := item.entry.evict(ts.keep)
		if !ok {
			kept = append(kept, lruItem{item.entry, now.UnixNano()})
			continue
		}
		ts.bytes.Add(-size)
		ts.byKey.Delete(item.entry.key)
	}
	for _, item := range kept {
		heap.Push(&ts.order, item)
	}
}

// tooMany reports whether one more would be over a bound. kept are in memory,
// but not in the heap at the moment.
func (ts *table) tooMany(kept int) bool {
	return ts.order.Len()+kept >= ts.max || (ts.maxBytes > 0 && ts.bytes.Load() > ts.maxBytes)
}

// entryOverhead is what a key costs besides its texts, as measured: the entry,
// the token, its place in the table.
const entryOverhead = 450

// passingOverhead is what it costs more while something passes: that, and a timer.
const passingOverhead = 450

// weigh accounts for what the entry holds. The caller holds e.mu.
func (ts *table) weigh(e *entry) {
	if ts != nil {
		ts.bytes.Add(e.weigh())
	}
}

// maxUnevictable bounds the work of one eviction when the oldest entries must
// all stay.
const maxUnevictable = 32

func (ts *table) each(f func(*entry)) {
	ts.byKey.Range(func(_, v any) bool {
		f(v.(*entry))
		return true
	})
}

type lruItem struct {
	entry *entry
	used  int64
}

type lruHeap []lruItem

func (h lruHeap) Len() int           { return len(h) }
func (h lruHeap) Less(i, j int) bool { return h[i].used < h[j].used }
func (h lruHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *lruHeap) Push(x any)        { *h = append(*h, x.(lruItem)) }
func (h *lruHeap) Pop() any {
	old := *h
	item := old[len(old)-1]
	old[len(old)-1] = lruItem{}
	*h = old[:len(old)-1]
	return item
}
