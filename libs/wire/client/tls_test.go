package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"testing"
	"time"
)

func TestServerCertificateIsVerified(t *testing.T) {
	cfg := serve(t, &tls.Config{}, func(*tls.Conn) {})
	var name x509.HostnameError
	wrong := cfg
	wrong.VerifyName = "other.test"
	if _, err := Dial(t.Context(), wrong); !errors.As(err, &name) {
		t.Errorf("another name: got %v", err)
	}
	var authority x509.UnknownAuthorityError
	wrong = cfg
	wrong.RootCAs = x509.NewCertPool()
	if _, err := Dial(t.Context(), wrong); !errors.As(err, &authority) {
		t.Errorf("another root: got %v", err)
	}
	cfg.VerifyName = ""
	dial(t, cfg)
}

// Both versions of TLS, with a server that refuses the client's certificate.
func TestRefusedClientStillSeesTheServersCertificate(t *testing.T) {
	for _, highest := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(highest), func(t *testing.T) {
			cfg := serve(t, &tls.Config{
				ClientAuth:       tls.RequireAnyClientCert,
				VerifyConnection: func(tls.ConnectionState) error { return errors.New("not known") },
			}, func(conn *tls.Conn) { _, _ = io.Copy(io.Discard, conn) })
			cfg.TLSMax = highest
			chain, err := FetchCertificates(t.Context(), cfg)
			if err != nil || len(chain) != 1 || !chain[0].Equal(serverLeaf().Leaf) {
				t.Errorf("got %d certificates, %v", len(chain), err)
			}
			cfg.Certificate = clientCertificate(t, time.Now())
			vcenter := &VCenter{Server: Spread(cfg)}
			_, err = vcenter.CreateKey(t.Context(), "A")
			var problem *Problem
			if !errors.As(err, &problem) || problem.Shows != showsNotTrusted {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestClientCertificateIsPresented(t *testing.T) {
	got := make(chan *x509.Certificate, 1)
	cfg := serve(t, &tls.Config{
		ClientAuth: tls.RequireAnyClientCert,
		ClientCAs:  x509.NewCertPool(), // names no issuer of the client's
	}, func(conn *tls.Conn) { got <- conn.ConnectionState().PeerCertificates[0] })
	cfg.Certificate = clientCertificate(t, time.Now())
	conn := dial(t, cfg)
	if leaf := <-got; !leaf.Equal(cfg.Certificate.Leaf) {
		t.Error("the server saw another certificate")
	}
	if conn.TLS().Version != tls.VersionTLS13 {
		t.Errorf("negotiated %s", tls.VersionName(conn.TLS().Version))
	}
}

func TestUnreachableServer(t *testing.T) {
	cfg := serve(t, &tls.Config{}, func(*tls.Conn) {})
	cfg.Address = "127.0.0.1:1"
	var problem *Problem
	if err := (&VCenter{Server: Spread(cfg)}).HealthPoll(t.Context()); !errors.As(err, &problem) || problem.Shows != showsUnreachable {
		t.Errorf("got %v", err)
	}
	if _, err := FetchCertificates(t.Context(), cfg); err == nil {
		t.Error("certificates of nobody")
	}
}
