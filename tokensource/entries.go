package tokensource

import (
	"container/heap"
	"sync"
	"sync/atomic"
	"time"
)

// entries is the bounded table of a keyed source. Looking up is a lock-free
// read; making and evicting take a lock.
type entries struct {
	max      int
	maxBytes int64 // 0: no bound
	bytes    atomic.Int64
	keep     bool     // tokens must stay: nothing but this memory has them
	byKey    sync.Map // Key -> *entry
	mu       sync.Mutex
	order    lruHeap
}

func newEntries(maxKeys int, maxBytes int64, keep bool) *entries {
	return &entries{max: maxKeys, maxBytes: maxBytes, keep: keep}
}

func (es *entries) get(k Key, now time.Time) *entry {
	if v, ok := es.byKey.Load(k); ok {
		e := v.(*entry)
		e.touch(now)
		return e
	}
	return es.add(k, now)
}

func (es *entries) add(k Key, now time.Time) *entry {
	es.mu.Lock()
	defer es.mu.Unlock()
	e := &entry{key: k}
	e.touch(now)
	if v, loaded := es.byKey.LoadOrStore(k, e); loaded {
		return v.(*entry)
	}
	es.evict(now)
	heap.Push(&es.order, lruItem{e, now.UnixNano()})
	return e
}

// evict makes room for one more, removing the entries longest unused. The heap
// is lazy: it holds the time of use as it was when the entry was last looked
// at, and an entry used since goes back in with the new one. What may not be
// evicted goes back too, as if it were used now, and stays over the bound if
// need be: a token that only a person could replace is worth more than memory.
func (es *entries) evict(now time.Time) {
	var kept []lruItem
	for es.tooMany(len(kept)) && es.order.Len() > 0 && len(kept) < maxUnevictable {
		item := heap.Pop(&es.order).(lruItem)
		switch used := item.entry.used.Load(); {
		case used > item.used:
			heap.Push(&es.order, lruItem{item.entry, used})
		case item.entry.evict(es):
			es.byKey.Delete(item.entry.key)
		default:
			kept = append(kept, lruItem{item.entry, now.UnixNano()})
		}
	}
	for _, item := range kept {
		heap.Push(&es.order, item)
	}
}

// tooMany reports whether one more would be over a bound. kept are in memory,
// but not in the heap at the moment.
func (es *entries) tooMany(kept int) bool {
	return es.order.Len()+kept >= es.max || (es.maxBytes > 0 && es.bytes.Load() > es.maxBytes)
}

// entryOverhead is what a key costs besides its texts, as measured: the entry,
// the token, its place in the table.
const entryOverhead = 700

// weigh accounts for what the entry holds. The caller holds e.mu.
func (es *entries) weigh(e *entry) {
	if es == nil {
		return
	}
	size := int64(entryOverhead + len(e.key.encoded))
	if t := e.tok; t != nil {
		size += int64(len(t.authorization) + len(t.refresh))
		for _, f := range t.fields {
			size += int64(32 + len(f.Name) + len(f.Value))
		}
	}
	es.bytes.Add(size - e.size)
	e.size = size
}

// maxUnevictable bounds the work of one eviction when the oldest entries must
// all stay.
const maxUnevictable = 32

func (es *entries) each(f func(*entry)) {
	es.byKey.Range(func(_, v any) bool {
		f(v.(*entry))
		return true
	})
}

// touch notes that the entry is used, to the second: finer would have every
// request write to a line of memory that all cores share.
func (e *entry) touch(now time.Time) {
	if n := now.UnixNano(); n-e.used.Load() > int64(time.Second) {
		e.used.Store(n)
	}
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
