# Gets a URL with net/http, as an app would, and prints the answer.
require "net/http"

answer = Net::HTTP.get_response(URI(ARGV[0]))
abort "#{answer.code} #{answer.message}" unless answer.is_a?(Net::HTTPSuccess)
print answer.body
