// Package tsdb stores increments of series on a time grid and shows them to PromQL
// as the running totals it expects.
//
// Prometheus keeps what scrapes saw: totals, changed or not. Events are known one
// by one, so this package keeps what each window added. Two parts of the same
// window always merge (counts add, bucket counts add, sets of ids unite), and from
// that follows the rest: late events need no special path, idle series cost
// nothing, and memtables, log and any number of overlapping blocks can be merged in
// any order. The price is that nothing may be applied twice, which is what the
// write path is built around.
//
// # Writing
//
//	DB.Append -> store.append: reserve key, route to memtables (admission),
//	             encode, wal.append (group commit, fsync), apply to memtables
//	flush:       take the memtables at one log position, write blocks, replace the
//	             manifest, release log segments
//	Open:        read manifests, replay the log after their watermarks
//
// # Reading
//
//	DB.Querier -> pin a version -> selectSeries over memtables and blocks ->
//	merge each series' increments -> view
//	querier.Columns -> the same selection -> internal/column: the runs of a counter
//	and its increments, the samples of all else
//
// # Files
//
//	db.go            opening, closing, tenants by id
//	store.go         one tenant: opening, append, replay
//	settings.go      what an operator decides of a tenant, at run time
//	usage.go         what a tenant has
//	appender.go      one batch on its way: routed, encoded, applied
//	deletion.go      what was deleted by selector and time, and how readers leave it out
//	clean.go         rewriting what holds it; how far that is
//	drop.go          deleting a tenant
//	erase.go         another key of user ids
//	snapshot.go      linking tenants' files to a directory of their own
//	snapshots.go     which there are
//	restore.go       making a tenant what it is in one
//	failed.go        tenants that cannot be opened, and the log they need
//	block_span.go    spans of time that memtables and blocks share
//	routing.go       which memtable takes what
//	mem_reader.go    series of a memtable on their way into a block
//	flush.go         memtables to blocks
//	relog.go         small tenants logged again instead of flushed
//	pressure.go      what is refused while flushes are behind
//	maintain.go      background work
//	retention.go, retention_memory.go   what goes by age, by size and by rules
//	idle.go          looking at tenants that are not in memory
//	compact_plan.go, compact.go     merging of blocks
//	downsample.go    which blocks and series come to coarser windows
//	coarsen.go, expand.go           windows merged to coarse ones, and as readers see those
//	thin.go          gauges and samples of such blocks
//	version.go       immutable states of a tenant's data, pinned by readers
//	admission.go     kinds and limits of series, folding into "(other)"
//	admission_total.go  how many series there are of all metrics
//	keys.go          batch keys that were seen, in memory and on disk
//	state.go         what is kept besides increments, such as open sessions
//	event_ids.go     ids of events that were counted, by way of package dedup
//	notes.go         exemplars and metadata
//	late.go          what has changed in the settled past, for who keeps answers; what
//	                 came after rules had read
//	manifest.go      what a tenant's directory holds
//	memtable.go      series in memory, with an index
//	memseries.go     one of them: its open window and its log
//	memlog.go        closed windows as bytes, in memory and in the log
//	hashset.go       a set of hashes
//	undo.go          cuts: series as they were when a reader came
//	points.go        increments of one series decoded, the form all others meet in
//	block.go, block_write.go        blocks in Prometheus's format
//	block_cache.go, mapped.go       a bounded number of open blocks; reading them
//	chunk_files.go                  a block's chunk files
//	chunk*.go, pack.go, bits.go     chunk encodings
//	wal*.go          the write-ahead log: writer, format, records, replay, and what
//	                 a tenant needs of it
//	unions_write.go, unions_read.go the unions of distinct ids in a block
//	querier.go, select.go           queries
//	block_series.go                 series of a block's index, one after the other
//	block_selection.go              those that a selector selects, where all are in one
//	column.go, column_gauge.go, xor.go   whole series for the planner
//	distinct.go                     distinct ids by intervals
//	survey.go                       series by their labels and what they take
//	stats.go, analyze.go            the same of a tenant that is open, and offline
//	check*.go        verifying a data directory offline
//	offline.go       locking one that no server has open
//	metrics.go       what is counted
//	view_runs.go, view.go, view_spans.go    what PromQL sees
//	classic*.go                     classic series of histograms with buckets
//
// # Invariants
//
//	I1: Every increment that was acknowledged is in exactly one place: a live
//	    block, or the log at or after its tenant's watermark (and then also in a
//	    memtable).
//	    A tenant that cannot be opened keeps its records in the log until it can.
//	I2: A flush holds store.barrier exclusively while it takes memtables, keys and
//	    its log position: every batch of the tenant that was logged before the
//	    position is in what it took, batch key included, and none logged after.
//	I3: The manifest is the commit point. It never names a file that is not synced
//	    and renamed into place, and what it does not name is garbage. A tenant is gone
//	    when its directory is renamed, and restored when the new one has the name that
//	    an open puts in the place of the old one.
//	I4: A reader uses one version for all its selectors. Files of a superseded
//	    version go when its last reader does; those of a block in use are never
//	    closed, and nothing of a mapped file outlives its use. Memtables of the version go on
//	    taking appends; the reader sees them as they were at its cut, a point
//	    between two batches.
//	I5: The view is a function of a series' merged increments, the tenant's grid
//	    and the metric's idle timeout, and the pinned present; of neither the query's range nor
//	    how data is stored. Samples are shown as they are. Totals begin at a midnight UTC, so a read begins there.
//	    Deletions come with the version: it leaves out, of a block or memtable that is
//	    clean up to some number, what those with a higher one select.
//	I6: No memtable, block or index holds series of two tenants; log records carry
//	    their tenant and its generation.
//	I7: After a failed write or fsync of the log nothing is acknowledged until the
//	    directory is opened again.
//	I8: Whoever is told that a batch is stored, as new or as a duplicate, is told
//	    of something durable: replay rewrites the log's last segment first. (Where
//	    Options.WALSyncEvery is set: durable within that time.)
//	I9: Of two samples of one series and time the last written stands: a version's
//	    blocks are in the order of writing, its memtables after them.
//	I10: What changes samples at or before a time that a reader was promised is
//	    settled is noted in the tenant's lateLog while no cut can be taken, before it
//	    can be seen.
//	I11: A block's unions say nothing that its windows do not: without them, or where
//	    they are damaged, answers are the same and take longer.
//	I12: A deletion covers what was logged before it and nothing after. It freezes all
//	    memtables; what a block or memtable holds was logged before every deletion that
//	    it is not clean of. Its record stays in the log until a manifest has it, and it
//	    stays there until every block is clean of it.
//
// # Lock order
//
//	DB.dropping, eventIDs.writing, store.rewriting, store.flushMu, eventIDs.barrier, DB.openMu,
//	store.settingsMu, store.barrier, DB.mu, store.mu, cuts.applying, versions.swap,
//	admission.mu, versions.mu, memtable.indexing, memtable.mu, memShard.mu,
//	memSeries.mu, notes.mu, wal.mu, openBlocks.mu;
//	keySet.mu, lateLog.mu, deletionJobs.mu and blockCache.mu are taken last. No append takes rewriting or
//	flushMu. home.moving is held shared while a block is opened. No file is read, written, opened or closed under a
//	lock that a reader of other data takes.
package tsdb
