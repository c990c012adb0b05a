package node

import (
	"net/netip"
	"sync"
	"time"

	"github.com/kmip-for-vmware/kmip/libs/pg"
)

// admissionInterval is how often the use of one certificate is reported at
// most: the first one at once, later ones a minute apart.
const admissionInterval = time.Minute

// admissions remembers when client certificates were used last. A certificate
// whose latest use was reported more than an interval ago is forgotten.
type admissions struct {
	mu     sync.Mutex
	latest map[string]*admission // by the id of the certificate's record
}

type admission struct {
	at    time.Time
	from  netip.Addr
	told  time.Time // of the latest report; zero: none
	known time.Time // the latest use on record
}

// note remembers that a client was admitted.
func (a *admissions) note(certificate string, from netip.Addr, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	x := a.latest[certificate]
	if x == nil {
		x = &admission{}
		a.latest[certificate] = x
	}
	x.at, x.from = now, from
}

// due returns the uses to report now.
func (a *admissions) due(now time.Time, interval time.Duration) []pg.CertificateUse {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []pg.CertificateUse
	for certificate, x := range a.latest {
		switch {
		case now.Sub(x.told) < interval:
		case x.at.Equal(x.known):
			delete(a.latest, certificate)
		default:
			all = append(all, pg.CertificateUse{Certificate: certificate, From: x.from, Ago: now.Sub(x.at)})
		}
	}
	return all
}

// reported notes that the uses that were due at a time are on record.
func (a *admissions) reported(due []pg.CertificateUse, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range due {
		x := a.latest[d.Certificate]
		x.told, x.known = now, now.Add(-d.Ago)
	}
}
