package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/kmip"
)

// VCenter plays vCenter 7.0.3 towards the servers of one key provider. Every
// method opens the connections that vCenter opens, each with one task; each
// begins with Discover Versions and is closed by the client. The label of a
// connection goes to Server and Report. Servers see the same bytes as from
// vCenter, and answers that vCenter would not accept are a *Problem.
//
// Nothing is tried again, and nothing waits but for an answer: bound the
// context. Safe for concurrent use.
type VCenter struct {
	// Server picks the server for a connection; see Spread.
	Server func(connection string) Config
	// ProductVersion is the value of x-Product_Version; empty means
	// DefaultProductVersion.
	ProductVersion string
	// Report, if set, is told of every step when it has ended, one at a time.
	Report func(Step)

	reporting sync.Mutex
}

// DefaultProductVersion is what vCenter 7.0.3 calls itself.
const DefaultProductVersion = "7.0.3 build-19480866"

// Spread returns a choice for VCenter.Server: labels that differ by one in one
// character, as A and B do, go to servers next to each other, and the same
// label always goes to the same one.
func Spread(first Config, more ...Config) func(connection string) Config {
	servers := append([]Config{first}, more...)
	return func(connection string) Config {
		sum := 0
		for _, b := range []byte(connection) {
			sum += int(b)
		}
		return servers[sum%len(servers)]
	}
}

// Step is one thing that happened on a connection: the handshake or a request.
type Step struct {
	Name       string // "Connect", "Create", "Get Attributes State"
	Server     string // Config.Address
	Connection string // label
	ObjectID   kmip.ObjectID
	Started    time.Time
	Duration   time.Duration
	Err        error // nil or a *Problem
}

// Problem is a surprise on the way: a failure, or an answer that vCenter does
// not accept.
type Problem struct {
	Step  string // Step.Name
	Shows string // what vCenter's user sees of it
	Err   error
}

// Error names the step, the cause and what vCenter would show.
func (p *Problem) Error() string {
	return fmt.Sprintf("%s: %v (vCenter shows: %s)", p.Step, p.Err, p.Shows)
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.Err }

// What vCenter shows; the states of keys are those of its API
// (CryptoManagerKmipCryptoKeyStatusKeyUnavailableReason).
const (
	showsUnreachable   = "the server is not connected; keys are KeyStateClusterUnreachable"
	showsNotTrusted    = "the key server does not trust vCenter (serverTrustClient is false)"
	showsDistrusted    = "vCenter does not trust the key server (clientTrustServer is false)"
	showsNotConnected  = "the server is not connected"
	showsNothing       = "nothing, vCenter goes on"
	showsTaskFails     = "the task fails with the server's reason"
	showsMissing       = "KeyStateMissingInKMS: the virtual machine is locked because keys are missing on the KMS cluster"
	showsNotActive     = "KeyStateNotActiveOrEnabled"
	showsCannotGet     = "Cannot get key %s from KMS server"
	showsStateNotGiven = "Get, Attributes, Id=%s, Names=State failed; Cannot get key %[1]s from KMS server"
)

// shows says what vCenter makes of an error: answer if the server gave one.
func shows(err error, answer string) string {
	var (
		result    *ResultError
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		network   *net.OpError
	)
	switch {
	case errors.As(err, &result), errors.Is(err, ErrAnswer), errors.Is(err, errUnwanted):
		return answer
	case errors.As(err, &authority), errors.As(err, &name), errors.As(err, &invalid):
		return showsDistrusted
	case errors.As(err, &network) && network.Op == "remote error": // crypto/tls: an alert
		return showsNotTrusted
	}
	return showsUnreachable
}

// errUnwanted is in the chain of errors about answers that keep to the protocol
// and that vCenter still does not accept.
var errUnwanted = errors.New("not what vCenter wants")

// visit is one connection of the player.
type visit struct {
	v     *VCenter
	cfg   Config
	label string
	conn  *Conn
}

// connect opens a connection; the caller closes visit.conn.
func (v *VCenter) connect(ctx context.Context, connection string) (*visit, error) {
	at := &visit{v: v, cfg: v.Server(connection), label: connection}
	err := at.step("Connect", "", showsNotConnected, func() (err error) {
		at.conn, err = Dial(ctx, at.cfg)
		return err
	})
	return at, err
}

// step does one thing and reports it. An error becomes a *Problem unless do has
// made it one; answer is what vCenter shows for what the server answered.
func (at *visit) step(name string, id kmip.ObjectID, answer string, do func() error) error {
	started := time.Now()
	err := do()
	var problem *Problem
	if err != nil && !errors.As(err, &problem) {
		err = &Problem{Step: name, Shows: shows(err, answer), Err: err}
	}
	at.v.tell(Step{
		Name: name, Server: at.cfg.Address, Connection: at.label, ObjectID: id,
		Started: started, Duration: time.Since(started), Err: err,
	})
	return err
}

// tell reports a step, one at a time.
func (v *VCenter) tell(s Step) {
	if v.Report == nil {
		return
	}
	v.reporting.Lock()
	defer v.reporting.Unlock()
	v.Report(s)
}

// on opens a connection, greets as vCenter does, runs task and closes.
func (v *VCenter) on(ctx context.Context, connection string, task func(at *visit) error) error {
	at, err := v.connect(ctx, connection)
	if err != nil {
		return err
	}
	defer at.conn.Close() //nolint:errcheck // every answer has been read
	if err := at.discover(ctx); err != nil {
		return err
	}
	return task(at)
}

// bare opens a connection and closes it without a byte of KMIP.
func (v *VCenter) bare(ctx context.Context, connection string) error {
	at, err := v.connect(ctx, connection)
	if err != nil {
		return err
	}
	_ = at.conn.Close() // nothing was sent that could be lost
	return nil
}

// discover sends Discover Versions and wants at least one version.
func (at *visit) discover(ctx context.Context) error {
	return at.step("Discover Versions", "", showsNotConnected, func() error {
		versions, err := at.conn.DiscoverVersions(ctx)
		if err == nil && len(versions) == 0 {
			err = fmt.Errorf("%w: the list of versions is empty", errUnwanted)
		}
		return err
	})
}

// together runs both at once and joins their errors, the first one's first.
func together(first, second func() error) error {
	var errs [2]error
	var group sync.WaitGroup
	group.Go(func() { errs[0] = first() })
	errs[1] = second()
	group.Wait()
	return errors.Join(errs[:]...)
}
