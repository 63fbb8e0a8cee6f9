package caddymodule

// SourceIDs returns the pool ids of an app's sources, by name: two configs
// with the same id share one running source.
func (a *App) SourceIDs() map[string]string {
	ids := make(map[string]string, len(a.built))
	for name, src := range a.built {
		ids[name] = src.id
	}
	return ids
}
