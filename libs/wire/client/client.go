// Package client is a KMIP client and the conversation that vCenter has with a
// key server.
//
// [Dial] and [Conn] speak KMIP 1.x over mutual TLS and check every answer
// against its request. [VCenter] plays the steps that vCenter takes: trust,
// health poll, encryption of a virtual machine, boot of a host. Requests are
// encoded as vCenter 7.0.3 encodes them. The package shares no code with the
// server but libs/wire/message, so that a wrong belief about payloads does not
// pass on both sides.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/wire/message"
)

// DefaultMaxResponse is the longest answer read when Config names no limit.
const DefaultMaxResponse = 1 << 20

// ErrAnswer is in the chain of every error about an answer that breaks the
// protocol. Close the connection after it.
var ErrAnswer = errors.New("answer breaks the protocol")

// Version is a protocol version.
type Version struct{ Major, Minor int32 }

// String returns the version as "1.1".
func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// Config says how to reach one key server.
type Config struct {
	// Address is host:port.
	Address string
	// ServerName is sent as SNI; with an empty one, or an IP address, none is
	// sent (RFC 6066).
	ServerName string
	// RootCAs are the certificates that the server's must lead to; the server's
	// own may be among them, as vCenter keeps it. Nil means the system's.
	RootCAs *x509.CertPool
	// VerifyName is the DNS name or IP address that the server's certificate
	// must hold. With an empty one no name is compared.
	VerifyName string
	// Certificate is the client's; nil means that none is presented.
	Certificate *tls.Certificate
	// LocalAddress is the source address; the zero value leaves it to the system.
	LocalAddress netip.Addr
	// Credential is sent as vCenter sends it; nil: none is.
	Credential *Credential
	// Version stands in every request's header; the zero value means 1.1.
	Version Version
	// MaxResponse is the longest answer read, in bytes; zero means
	// DefaultMaxResponse.
	MaxResponse int
	// TLSMax is the highest TLS version offered; zero means TLS 1.3.
	TLSMax uint16
}

// Credential is KMIP's Username and Password (KMIP 1.4, 2.1.2).
type Credential struct{ UserName, Password string }

// Conn is a connection to a key server. It is not safe for concurrent use: a
// KMIP connection carries one request at a time.
type Conn struct {
	tls         *tls.Conn
	version     Version
	credential  *Credential
	maxResponse int
	greeted     bool  // a request has been sent
	broken      error // why the connection is of no use
}

// Dial connects and completes the TLS handshake. The context bounds that alone.
// With TLS 1.3 a server that refuses the client certificate says so only in
// answer to the first request.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	conn, err := handshake(ctx, cfg, func(state tls.ConnectionState) error {
		return verify(cfg, state.PeerCertificates)
	})
	if err != nil {
		return nil, err
	}
	c := &Conn{tls: conn, version: cfg.Version, credential: cfg.Credential, maxResponse: cfg.MaxResponse}
	if c.version == (Version{}) {
		c.version = Version{Major: 1, Minor: 1}
	}
	if c.maxResponse == 0 {
		c.maxResponse = DefaultMaxResponse
	}
	return c, nil
}

// FetchCertificates returns the chain that the server presents, leaf first, and
// trusts nothing, as vCenter's "Make vCenter trust KMS" does. It needs no client
// certificate, and works as well when the server then refuses the connection.
func FetchCertificates(ctx context.Context, cfg Config) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	conn, err := handshake(ctx, cfg, func(state tls.ConnectionState) error {
		chain = state.PeerCertificates
		return nil
	})
	if err == nil {
		_ = conn.Close() // nothing was sent that could be lost
	}
	if len(chain) == 0 {
		return nil, err
	}
	return chain, nil
}

// handshake connects and lets check alone judge the server's certificate.
func handshake(ctx context.Context, cfg Config, check func(tls.ConnectionState) error) (*tls.Conn, error) {
	dialer := &net.Dialer{}
	if cfg.LocalAddress.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(cfg.LocalAddress, 0))
	}
	raw, err := dialer.DialContext(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, err
	}
	settings := &tls.Config{
		ServerName:             cfg.ServerName,
		InsecureSkipVerify:     true, //nolint:gosec // crypto/tls would verify the SNI name; check does it all
		VerifyConnection:       check,
		MinVersion:             tls.VersionTLS12,
		MaxVersion:             cfg.TLSMax,
		SessionTicketsDisabled: true,
	}
	if cfg.Certificate != nil {
		// Unlike Certificates, this does not ask whether the server's list of
		// authorities holds the issuer: vCenter's is its own.
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return cfg.Certificate, nil
		}
	}
	conn := tls.Client(raw, settings)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", cfg.Address, err)
	}
	return conn, nil
}

// verify builds the chain from the server's certificate to the roots.
func verify(cfg Config, chain []*x509.Certificate) error {
	intermediates := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: cfg.RootCAs, Intermediates: intermediates, DNSName: cfg.VerifyName,
	})
	return err
}

// TLS returns what the handshake agreed on.
func (c *Conn) TLS() tls.ConnectionState { return c.tls.ConnectionState() }

// Close ends the connection.
func (c *Conn) Close() error { return c.tls.Close() }

// Do sends one request and returns the results of its items, in their order.
// The first request of a connection, when it is a lone Discover Versions, has no
// batch item id; every other item has one (vCenter 7.0.3).
//
// A failed item is a Result with Err set, and may be the last one: a server
// stops there unless told otherwise (KMIP 1.4, 6.6). An error of Do itself is a
// *ResultError when the server refused the whole message, has ErrAnswer in its
// chain when the answer breaks the protocol, and is the context's or the
// network's otherwise; after the last three the connection is of no use.
func (c *Conn) Do(ctx context.Context, items ...Item) ([]Result, error) {
	if c.broken != nil {
		return nil, fmt.Errorf("connection is of no use since: %w", c.broken)
	}
	asked := request{version: c.version, items: items}
	asked.identified = c.greeted || len(items) != 1 || items[0].Operation != OperationDiscoverVersions
	if sent(items) {
		asked.credential = c.credential
	}
	frame, err := asked.encode()
	if err != nil {
		return nil, err
	}
	c.greeted = true
	answer, err := c.roundTrip(ctx, frame)
	defer clear(answer) // it may hold a key
	if err != nil {
		c.broken = err
		return nil, err
	}
	results, err := asked.decode(answer)
	if errors.Is(err, ErrAnswer) {
		c.broken = err
	}
	return results, err
}

// roundTrip sends one frame and reads one. The caller wipes the answer, also
// when there is an error.
func (c *Conn) roundTrip(ctx context.Context, frame []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() {
		_ = c.tls.SetDeadline(time.Unix(1, 0)) // long past: ends the pending Write and Read
	})
	_, sendErr := c.tls.Write(frame)
	// Read even then: a server that refuses says why in an alert before it closes.
	answer, err := message.Read(c.tls, c.maxResponse)
	switch {
	case !stop():
		return answer, fmt.Errorf("no answer: %w", context.Cause(ctx))
	case err == nil:
		return answer, nil
	case errors.Is(err, message.ErrTooLarge), errors.Is(err, message.ErrNotKMIP):
		return answer, badAnswer("%w", err)
	case sendErr != nil:
		return answer, fmt.Errorf("send: %w", errors.Join(err, sendErr))
	}
	return answer, fmt.Errorf("receive: %w", err)
}
