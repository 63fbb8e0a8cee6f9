package caddymodule

// Lost implements tokensource.Observer.
func (es *environments) Lost(source, key string, err error) {
	if env := es.current(); env != nil {
		env.observer.Lost(source, key, err)
	}
}

// Store implements tokensource.Observer.
func (es *environments) Store(source string, err error) {
	if env := es.current(); env != nil {
		env.observer.Store(source, err)
	}
}

// Lost implements tokensource.Observer.
func (o observer) Lost(string, string, error) {}

// Store implements tokensource.Observer.
func (o observer) Store(string, error) {}
