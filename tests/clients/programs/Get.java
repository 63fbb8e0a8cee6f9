import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** Gets a URL with one of Java's clients, as an app would, and prints the answer: Get.java CLIENT URL. */
class Get {
    public static void main(String[] args) throws Exception {
        URI uri = URI.create(args[1]);
        if (args[0].equals("HttpClient")) {
            var answer = HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofString());
            if (answer.statusCode() != 200) {
                throw new Exception("status " + answer.statusCode());
            }
            System.out.print(answer.body());
        } else {
            var call = (HttpURLConnection) uri.toURL().openConnection();
            System.out.print(new String(call.getInputStream().readAllBytes()));
        }
    }
}
