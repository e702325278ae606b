from books import views
from django.conf.urls.i18n import i18n_patterns
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("i18n/", include("django.conf.urls.i18n")),
    path("books/", views.Books.as_view(), name="books"),
    path("books/<int:pk>/", views.OneBook.as_view(), name="book"),
    path("ask/", views.ask, name="ask"),
    path("titles.txt", views.titles),
    path("titles.json", views.titles_json),
    path("add", views.add),
    *i18n_patterns(path("about/", views.about, name="about")),
]
