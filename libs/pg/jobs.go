package pg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"github.com/kmip-for-vmware/kmip/libs/pg/internal/queries"
	"github.com/kmip-for-vmware/kmip/libs/tenant"
)

// The limits of jobs in one place.
const (
	// jobTime ends one try of a job; longer work goes on in the next.
	jobTime = 30 * time.Second
	// reconcileTime is that of comparing a ledger: a long list takes its time.
	reconcileTime = 5 * time.Minute
	// rescueAfter is when a job counts as left behind by a process that was
	// killed; every half minute such ones are tried again.
	rescueAfter = jobTime + 5*time.Second
	jobWorkers  = 16 // at once in one process
	// keepJobs is how long finished jobs stay to be looked at.
	keepJobs = time.Hour
	// stopTime is how long jobs that run may go on when the process ends.
	stopTime  = 5 * time.Second
	startWait = time.Second // between attempts to reach the database at the start
)

// Subject says whose instance a job is about.
type Subject struct {
	Account  string    `json:"account"`
	Instance tenant.ID `json:"instance"`
}

// The kinds of jobs. Each is in the queue once for an instance at a time.
type (
	// CheckKeyManager asks whether the key manager still does what is needed.
	CheckKeyManager struct{ Subject }
	// SettleObjects finishes Creates and Destroys that nobody else will finish.
	SettleObjects struct{ Subject }
	// RenewCertificates signs server certificates again that end soon.
	RenewCertificates struct{ Subject }
	// MoveKeys moves keys to the present root key.
	MoveKeys struct{ Subject }
	// Reconcile compares the ledger with the key manager.
	Reconcile struct{ Subject }
	// RemoveReplaced removes client certificates whose successors are in use.
	RemoveReplaced struct{ Subject }
	// sweep looks for work that is due.
	sweep struct{}
)

// Kind names the kind in the queue.
func (CheckKeyManager) Kind() string { return "check_key_manager" }

// Kind names the kind in the queue.
func (SettleObjects) Kind() string { return "settle_objects" }

// Kind names the kind in the queue.
func (RenewCertificates) Kind() string { return "renew_certificates" }

// Kind names the kind in the queue.
func (MoveKeys) Kind() string { return "move_keys" }

// Kind names the kind in the queue.
func (Reconcile) Kind() string { return "reconcile" }

// Kind names the kind in the queue.
func (RemoveReplaced) Kind() string { return "remove_replaced" }

// Kind names the kind in the queue.
func (sweep) Kind() string { return "sweep" }

// jobOf returns a job by the name of its kind.
func jobOf(kind string, s Subject) (Job, error) {
	for _, j := range []Job{CheckKeyManager{s}, SettleObjects{s}, RenewCertificates{s}, MoveKeys{s}, RemoveReplaced{s}, Reconcile{s}} {
		if j.Kind() == kind {
			return j, nil
		}
	}
	return nil, fmt.Errorf("a job of the kind %q is not known to this version", kind)
}

// Job is one of the kinds above.
type Job interface{ Kind() string }

// unfinished are the states in which a job keeps another like it out.
var unfinished = []rivertype.JobState{
	rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
}

// inserter puts jobs into the queue within transactions.
var inserter = sync.OnceValues(func() (*river.Client[pgx.Tx], error) {
	return river.NewClient(riverpgxv5.New(nil), &river.Config{})
})

// enqueue adds jobs within a transaction: they exist if it commits.
func enqueue(ctx context.Context, tx pgx.Tx, jobs ...Job) error {
	if len(jobs) == 0 {
		return nil
	}
	client, err := inserter()
	if err != nil {
		return err
	}
	all := make([]river.InsertManyParams, 0, len(jobs))
	for _, j := range jobs {
		all = append(all, river.InsertManyParams{
			Args: j, InsertOpts: &river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: unfinished}},
		})
	}
	_, err = client.InsertManyTx(ctx, tx, all)
	return err
}

// Jobs works the cell's queue beside any number of other processes. Its pool's
// role is kmip_control.
type Jobs struct {
	pool    *Pool
	workers *river.Workers
	every   Intervals
	log     *slog.Logger
}

// Intervals say within what time each instance is looked after once.
type Intervals struct {
	Check     time.Duration // of its key manager, unless it was used meanwhile
	Reconcile time.Duration // of its ledger with its key manager
}

// NewJobs returns the queue of a database.
func NewJobs(pool *Pool, every Intervals, log *slog.Logger) *Jobs {
	j := &Jobs{pool: pool, workers: river.NewWorkers(), every: every, log: log}
	Handle(j, j.sweep)
	return j
}

// Handle lets do work the jobs of one kind. Do may run twice for one job, also
// at the same time when a process hangs. A job whose do fails is tried again,
// later each time; Again asks for the next try itself.
func Handle[J Job](j *Jobs, do func(context.Context, J) error) {
	river.AddWorker(j.workers, &worker[J]{do: do})
}

// worker works the jobs of one kind.
type worker[J Job] struct {
	river.WorkerDefaults[J]
	do func(context.Context, J) error
}

// Work implements river.Worker.
func (w *worker[J]) Work(ctx context.Context, job *river.Job[J]) error {
	err := w.do(ctx, job.Args)
	if again := (Again{}); errors.As(err, &again) {
		return river.JobSnooze(again.After)
	}
	return err
}

// Timeout implements river.Worker; 0 is jobTime.
func (w *worker[J]) Timeout(job *river.Job[J]) time.Duration {
	if job.Kind == (Reconcile{}).Kind() {
		return reconcileTime
	}
	return 0
}

// Again is what a job returns that did a part and wants to go on later.
type Again struct{ After time.Duration }

// Error implements error.
func (Again) Error() string { return "there is more to do" }

// Run works until ctx ends; jobs that run then have some seconds.
func (j *Jobs) Run(ctx context.Context) error {
	for {
		client, err := river.NewClient(riverpgxv5.New(j.pool.pool), &river.Config{
			Workers:              j.workers,
			Queues:               map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: jobWorkers}},
			JobTimeout:           jobTime,
			SoftStopTimeout:      stopTime,
			ReindexerIndexNames:  []string{}, // takes the tables' owner
			RescueStuckJobsAfter: rescueAfter, CompletedJobRetentionPeriod: keepJobs, CancelledJobRetentionPeriod: keepJobs,
			Logger: slog.New(troubles{j.log.Handler()}),
			PeriodicJobs: []*river.PeriodicJob{river.NewPeriodicJob(
				river.PeriodicInterval(min(max(min(j.every.Check, j.every.Reconcile)/10, time.Second), 30*time.Second)),
				func() (river.JobArgs, *river.InsertOpts) {
					return sweep{}, &river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: unfinished}}
				},
				&river.PeriodicJobOpts{RunOnStart: true},
			)},
		})
		if err != nil {
			return err
		}
		if err = client.Start(ctx); err == nil {
			<-client.Stopped()
			return nil
		}
		j.log.WarnContext(ctx, "jobs can't be worked yet", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(startWait):
		}
	}
}

// troubles leaves out what the queue tells of its daily work.
type troubles struct{ slog.Handler }

// Enabled implements slog.Handler.
func (t troubles) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && t.Handler.Enabled(ctx, level)
}

// sweep puts into the queue what is due.
func (j *Jobs) sweep(ctx context.Context, _ sweep) error {
	return j.pool.transactTx(ctx, pgx.TxOptions{}, func(tx pgx.Tx) error {
		rows, err := queries.New(tx).TakeDueWork(ctx, queries.TakeDueWorkParams{
			CheckSeconds: j.every.Check.Seconds(), ReconcileSeconds: j.every.Reconcile.Seconds(),
		})
		if err != nil {
			return err
		}
		due := make([]Job, 0, len(rows))
		for _, row := range rows {
			job, err := jobOf(row.Kind, Subject{Account: row.Account, Instance: tenant.ID(row.InstanceID)})
			if err != nil {
				return err
			}
			due = append(due, job)
		}
		return enqueue(ctx, tx, due...)
	})
}
